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
                             const std::vector<double>& uniforms,
                             const std::vector<int32_t>& recent = {}) {
  how.recent_count = uint32_t(recent.size());
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
                  .recent = recent.data(),
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

// The largest number below 1 times a total may round to the total, which no running sum passes.
TEST(DeviceSampling, SomebodyIsDrawnAtTheVeryEnd) {
  constexpr double kLast = 0x1.fffffffffffffp-1;
  for (const uint32_t vocab : {2u, 3u, 5u, 300u, 1000u}) {
    std::vector<float> logits(vocab);
    for (uint32_t id = 0; id < vocab; ++id) logits[id] = 0.01f * float(id % 7);
    for (const uint32_t ending : {0u, 1u}) {  // tokens of no weight at the end
      if (ending > 0) logits[vocab - 1] = -INFINITY;
      const SampledRow got = Draw(logits, {1.0f, 1.0f, 1.0f, 0, 0, 0, 0}, {kLast})[0];
      EXPECT_EQ(got.id, int32_t(vocab - 1 - ending)) << vocab;
      EXPECT_LT(got.logprob, 0.01f);
    }
  }
}

TEST(DeviceSampling, PenaltiesMakeNoInfinities) {
  std::vector<float> logits(300, 1.0f);
  logits[7] = 3e38f;
  logits[8] = -3e38f;
  logits[9] = -INFINITY;
  const SampledRow small = Draw(logits, {1.0f, 1.0f, 1e-3f, 0, 0, 0, 0}, {0.5}, {7, 8, 9})[0];
  EXPECT_EQ(small.id, 7);
  logits[7] = 1.0f;
  const SampledRow large = Draw(logits, {1.0f, 1.0f, 100.0f, 0, 0, 0, 0}, {0.5}, {7, 8, 9})[0];
  EXPECT_NE(large.id, -1);
  EXPECT_NE(large.id, 8);
  EXPECT_NE(large.id, 9);
}

}  // namespace
}  // namespace lola::cuda
