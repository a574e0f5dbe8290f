// What a process says that cannot have a GPU: no driver, no plug-in, one of another build, a driver
// that is too old. The machine's own driver must not answer here: ctest gives the first two cases a
// loader that finds none, or a stand-in (LOLA_TEST_DRIVER).
#include "kernels/cuda/plugin.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <string>

namespace lola::cuda {
namespace {

using ::testing::HasSubstr;

bool DriverIs(const std::string& kind) {
  const char* told = std::getenv("LOLA_TEST_DRIVER");
  return told != nullptr && kind == told;
}

TEST(Plugin, WithoutADriverItIsSaidSo) {
  if (!DriverIs("none")) GTEST_SKIP() << "there is a driver, or its stand-in";
  const OpenedDevice opened = OpenCudaDevice({}, LOLA_FAKE_PLUGIN);
  EXPECT_EQ(opened.device, nullptr);
  EXPECT_THAT(opened.error, HasSubstr("no NVIDIA driver"));
  EXPECT_THAT(opened.error, HasSubstr("libcuda.so.1"));
}

class PluginWithDriver : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!DriverIs("fake")) GTEST_SKIP() << "needs the driver's stand-in";
  }
};

TEST_F(PluginWithDriver, AMissingPlugInIsNamed) {
  const OpenedDevice opened = OpenCudaDevice({}, "no/such/plugin.so");
  EXPECT_EQ(opened.device, nullptr);
  EXPECT_THAT(opened.error, HasSubstr("no/such/plugin.so"));
}

TEST_F(PluginWithDriver, APlugInOfAnotherBuildIsRefused) {
  const OpenedDevice opened = OpenCudaDevice({}, LOLA_FAKE_OLD_PLUGIN);
  EXPECT_EQ(opened.device, nullptr);
  EXPECT_THAT(opened.error, HasSubstr("made for another version of this program"));
}

TEST_F(PluginWithDriver, ADriverThatIsTooOldIsSaidInItsOwnWords) {
  setenv("LOLA_FAKE_PLUGIN_ERROR",
         "no usable NVIDIA driver: CUDA driver version is insufficient for CUDA runtime version",
         1);
  const OpenedDevice opened = OpenCudaDevice({.index = 3}, LOLA_FAKE_PLUGIN);
  EXPECT_EQ(opened.device, nullptr);
  EXPECT_EQ(opened.error,
            "device 3: no usable NVIDIA driver: CUDA driver version is insufficient for CUDA "
            "runtime version");
}

}  // namespace
}  // namespace lola::cuda
