// Drawing tokens on a device: ties at a cut-off go to the lowest ids, wherever the ties lie.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "kernels/cuda/device.h"

namespace lola::cuda {
namespace {

// One row per uniform number, all of the same logits.
std::vector<SampledRow> Draw(const std::vector<float>& logits, SampleRow how,
                             const std::vector<double>& uniforms) {
  std::unique_ptr<Device> device(NewEmulatedDevice(uint64_t{1} << 24));
  std::vector<float> all, adjusted(logits.size() * uniforms.size());
  std::vector<SampleRow> rows;
  for (const double uniform : uniforms) {
    all.insert(all.end(), logits.begin(), logits.end());
    how.uniform = uniform;
    rows.push_back(how);
  }
  std::vector<SampledRow> out(uniforms.size());
  device->Sample({.logits = all.data(),
                  .adjusted = adjusted.data(),
                  .rows = rows.data(),
                  .recent = nullptr,
                  .out = out.data(),
                  .vocab = uint32_t(logits.size())},
                 out.size());
  device->WaitOnHost(device->Record(Queue::kCompute));
  return out;
}

TEST(DeviceSampling, TiesAtACutOffGoToTheLowestIds) {
  constexpr uint32_t kVocab = 1500;  // more than one piece per thread
  std::vector<float> logits(kVocab, -1.0f);
  std::vector<int32_t> tied;
  for (uint32_t id = 5; id < kVocab; id += 7) {
    logits[id] = 2.0f;
    tied.push_back(int32_t(id));
  }
  logits[900] = 3.0f;  // the only one above
  for (const uint32_t top_k : {2u, 20u, 150u}) {
    const uint32_t ties = top_k - 1;
    const double above = std::exp(1.0), total = above + ties;
    std::vector<double> uniforms;
    std::vector<int32_t> want;
    double sum = 0;  // of the tokens before, by id
    bool passed = false;
    for (uint32_t i = 0; i < ties; ++i) {
      if (!passed && tied[i] > 900) {
        uniforms.push_back((sum + above / 2) / total);
        want.push_back(900);
        sum += above;
        passed = true;
      }
      uniforms.push_back((sum + 0.5) / total);
      want.push_back(tied[i]);
      sum += 1;
    }
    const auto got = Draw(logits, {1.0f, 1.0f, 1.0f, top_k, 0, 0, 0}, uniforms);
    for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(got[i].id, want[i]) << top_k << ", " << i;
  }
}

TEST(DeviceSampling, RefusesWhatIsNotANumber) {
  std::vector<float> logits(300, 0.5f);
  logits[299] = NAN;
  EXPECT_EQ(Draw(logits, {1.0f, 1.0f, 1.0f, 0, 0, 0, 0}, {0.5})[0].id, -1);
}

}  // namespace
}  // namespace lola::cuda
