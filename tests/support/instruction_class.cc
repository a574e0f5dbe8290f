// Linked into a test program: runs it under the instruction class that LOLA_TEST_INSTRUCTIONS
// names, so that what better processors never take is tested on them too. Ends with kSkipped where
// the machine cannot run the class.
#include "kernels/core/cpu.h"

#include <cstdio>
#include <cstdlib>

namespace lola::kernels {
namespace {

constexpr int kSkipped = 77;  // SKIP_RETURN_CODE of these tests

const bool limited = [] {
  const char* name = std::getenv("LOLA_TEST_INSTRUCTIONS");
  if (name == nullptr || LimitInstructionClass(name)) return name != nullptr;
  std::fprintf(stderr, "this machine cannot run the instruction class %s\n", name);
  std::exit(kSkipped);
}();

}  // namespace
}  // namespace lola::kernels
