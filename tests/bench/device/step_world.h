// A model on a device with streams in every slot, and what its steps must cost at least.
#ifndef LOLA_TESTS_BENCH_DEVICE_STEP_WORLD_H_
#define LOLA_TESTS_BENCH_DEVICE_STEP_WORLD_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "services/engine/model.h"
#include "tests/bench/device/bench_world.h"

namespace lola::bench {

// A stepper and its streams; one decode step advances all of them by the tokens they sample.
class StepWorld {
 public:
  static constexpr size_t kStagings = 2;

  // `batch` streams, or kFullBatch. Steps of at most max(rows, batch) rows.
  StepWorld(const BenchOptions& options, std::shared_ptr<const engine::Model> model,
            cuda::Device* device, size_t batch, size_t rows);

  size_t batch() const { return tokens_.size(); }
  // Seconds of one decode step, from the call to the tokens.
  double Decode();
  // Seconds of one step that feeds these tokens to the first stream.
  double Prefill(std::span<const int32_t> tokens);

  const engine::Model& model() const { return *model_; }
  const memory::StateLayout& layout() const { return layout_; }
  engine::DeviceArena& arena() { return *streams_->arena; }
  cuda::Device* device() const { return device_; }

 private:
  size_t StreamsThatFit() const;

  cuda::Device* const device_;
  const std::shared_ptr<const engine::Model> model_;
  const memory::StateLayout layout_;
  const engine::SamplingParams greedy_;
  std::vector<int32_t> tokens_;
  std::unique_ptr<Streams> streams_;
  std::unique_ptr<engine::DeviceStepper> stepper_;
};

// Bytes a decode step reads of a device's weights, and operations per token. The table that tokens
// are looked up in counts as one row, so not at all; the output head counts.
double DecodeWeightBytes(const engine::Model& model);
double DecodeFlops(const engine::Model& model);
// The same for prefill, where nobody asks for logits: layers alone.
double PrefillWeightBytes(const engine::Model& model);
double PrefillFlops(const engine::Model& model);
// Bytes a decode step reads of one stream's state: its window is between eta and eta + C rows long,
// half a chunk on average.
double StateBytesRead(const memory::StateLayout& layout);

// A batch of step times as a row: median, p99, tokens per second.
void AddSteps(BenchReport& report, const char* group, const std::string& name,
              std::vector<double> seconds, double floor_us, double tokens);

// Throughput with a snapshot of every stream per 512 of its tokens, beside the same steps without.
void RunSnapshotRate(const BenchOptions& options, StepWorld& world, BenchReport& report,
                     const std::string& name, double floor_us);

// Seconds of a prefill step's dense part alone: norms, products and SwiGLU of `rows` rows in all
// layers, on the same weights. What a whole step takes beyond it is LoLA's: rotations, feature
// maps, attention, chunk events, and what a step costs the host.
Timing TimeDense(const BenchOptions& options, const engine::Model& model, cuda::Device* device,
                 size_t rows);

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_DEVICE_STEP_WORLD_H_
