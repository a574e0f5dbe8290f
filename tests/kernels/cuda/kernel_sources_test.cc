// What the source of every kernel must look like, because no run on a CPU shows it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

namespace lola::cuda {
namespace {

// A kernel may be started while the one ahead still writes (portable.h): what it reads before
// AwaitPrevious may be old. The emulation sees that a kernel waits, not that it waits first.
TEST(KernelSources, EveryKernelWaitsFirst) {
  const std::regex kernel(R"(\nLOLA_KERNEL [^{;]*?(\w+)\([^{;]*\)\s*\{\s*([^;]*;))");
  int found = 0;
  const std::filesystem::path folder = std::filesystem::path(LOLA_SOURCE_DIR) / "kernels/cuda";
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() != ".cuh") continue;
    std::stringstream text;
    text << std::ifstream(file.path()).rdbuf();
    const std::string source = text.str();
    for (std::sregex_iterator at(source.begin(), source.end(), kernel), end; at != end; ++at) {
      EXPECT_EQ((*at)[2], "AwaitPrevious();") << file.path() << ": " << (*at)[1];
      ++found;
    }
    int told = 0;
    for (size_t at = 0; (at = source.find("\nLOLA_KERNEL ", at)) != std::string::npos; ++at) ++told;
    found -= told;  // none is overlooked
  }
  EXPECT_EQ(found, 0);
}

}  // namespace
}  // namespace lola::cuda
