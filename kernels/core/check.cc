#include "kernels/core/check.h"

#include <cstdlib>
#include <iostream>

namespace lola {

CheckFailure::CheckFailure(const char* file, int line, const char* condition) {
  std::cerr << file << ":" << line << ": check failed: " << condition << " ";
}

CheckFailure::~CheckFailure() {
  std::cerr << std::endl;
  std::abort();
}

std::ostream& CheckFailure::stream() { return std::cerr; }

}  // namespace lola
