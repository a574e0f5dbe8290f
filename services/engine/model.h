// A Llama-style decoder whose attention is LoLA's layer memory. The model itself is immutable and
// may be shared by any number of threads and workers; what a pass needs besides weights lives in a
// StepWorkspace (one per calling thread) and in the stream records.
//
// P2: a row's result depends on weights, settings and the tokens before it alone - never on what
// else is in the pass, on how tokens were split into passes, or on the number of threads.
#ifndef LOLA_SERVICES_ENGINE_MODEL_H_
#define LOLA_SERVICES_ENGINE_MODEL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/bf16.h"
#include "kernels/core/thread_pool.h"
#include "memory/stream/layout.h"
#include "memory/stream/settings.h"
#include "memory/stream/statistics.h"
#include "services/engine/config.h"
#include "services/engine/layer_range.h"
#include "services/engine/sampler.h"

namespace lola::engine {

using WeightDtype = kernels::Dtype;
// "float32", "bfloat16", "float8", "int8"; INVALID_ARGUMENT for other words.
absl::StatusOr<WeightDtype> ParseWeightDtype(std::string_view text);

struct LoadOptions {
  WeightDtype dtype = WeightDtype::kFloat32;  // how matrices are packed; norms and maps stay fp32
  // Keeps the weights of these layers only, for a pipeline of processes: the embedding with layer
  // 0, final norm and head with the last layer. Absent: all.
  std::optional<LayerRange> layers;
};

// A run of tokens of one stream inside a pass. A model that holds a range of the layers works on
// records of its range (CutLayout, CutSettings) and takes or gives rows of the residual stream
// where its range does not begin with layer 0 or end with the last one.
struct Segment {
  std::span<std::byte> record;                     // the stream's record; advanced in place
  const memory::StateLayout* layout = nullptr;     // of the record
  const memory::LolaSettings* settings = nullptr;  // resolved
  std::span<const int32_t> tokens;                 // at least one; not read after layer 0
  std::span<const float> hidden_in;                // [rows, hidden], when layer 0 is elsewhere
  std::span<float> hidden_out;  // out [rows, hidden], when the last layer is elsewhere
  uint32_t logits_rows = 1;     // logits wanted for the last n tokens; 0 = none
  float* logits = nullptr;      // out [logits_rows, vocab]; may be null when logits_rows == 0
  memory::MemoryStats* stats = nullptr;  // counters are added here; may be null
  size_t slot = 0;  // where the record lives, for executors that do not use `record`
  // Asks for a token after the last one; honoured by executors that sample themselves
  // (ModelRunner::samples), which then need no `logits`.
  const SamplingParams* sampling = nullptr;
  std::span<const int32_t> recent;  // newest tokens of the stream, for the repetition penalty
  SampledToken sampled;             // out
  // Out. Not OK: INVALID_ARGUMENT (token id), RESOURCE_EXHAUSTED (softmax window full): refused
  // before anything was touched. INTERNAL (NaN or infinity in a wanted logit): the record was
  // advanced and must be restored from a snapshot; other segments are unaffected.
  absl::Status status;
};

// Wall time by kind of operation, summed over passes. Plain integers, nanoseconds.
struct StepTimes {
  uint64_t passes = 0;
  uint64_t rows = 0;
  uint64_t total_ns = 0;
  uint64_t gemm_ns = 0;    // projections and MLP matrices
  uint64_t memory_ns = 0;  // layer memory: push, attend and events, wall time of the parallel part
  uint64_t norm_ns = 0;    // norms, SwiGLU, embedding, rotations
  uint64_t head_ns = 0;    // final norm and head matrix
};

class Model;
struct ModelWeights;

// Work buffers for passes of at most `max_rows` rows, allocated once. Not thread-safe.
class StepWorkspace {
 public:
  // `threads` is the largest pool Step will be called with.
  StepWorkspace(const Model& model, size_t max_rows, int threads);
  ~StepWorkspace();
  StepWorkspace(const StepWorkspace&) = delete;
  StepWorkspace& operator=(const StepWorkspace&) = delete;

  size_t max_rows() const;
  size_t bytes() const;  // of the buffers, without the layer memory's own scratch
  const StepTimes& times() const;

  struct Buffers;  // private parts, model_impl.h

 private:
  friend class Model;
  std::unique_ptr<Buffers> buffers_;
};

class Model {
 public:
  struct Impl;  // private parts, model_impl.h

  // Reads a Hugging Face style directory (config.json, *.safetensors). NOT_FOUND, DATA_LOSS,
  // INVALID_ARGUMENT, UNIMPLEMENTED: always with file, field and value.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& model_dir,
                                                     const LoadOptions& options);
  // A model of the given shape with random weights, built in packed form: for benchmarks and tests.
  static absl::StatusOr<std::unique_ptr<Model>> Random(const ModelConfig& config, uint64_t seed,
                                                       const LoadOptions& options);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const;
  const memory::ModelGeometry& geometry() const { return config().geometry; }
  const memory::LolaSettings& default_settings() const { return config().defaults; }
  // For other executors of the same model (services/engine/device).
  const ModelWeights& weights() const;
  std::span<const double> rope_frequencies() const;  // [head_dim / 2]

  // The layers whose weights are here, and the shape of a model that had no others. `config` and
  // `geometry` are always the whole model's.
  const LayerRange& layers() const;
  const memory::ModelGeometry& layers_geometry() const;
  bool has_first_layer() const { return layers().first == 0; }
  bool has_last_layer() const { return layers().end == geometry().layers; }
  bool whole() const { return has_first_layer() && has_last_layer(); }

  // 32 hex digits: XXH3-128 over configuration and all tensors in name order, packing excluded
  // except for the dtype, which changes results. Of the whole model, whatever layers are here.
  const std::string& fingerprint() const;
  // The same as 16 bytes, as record headers hold it.
  const std::array<std::byte, 16>& fingerprint_bytes() const;
  WeightDtype dtype() const;
  uint64_t parameters() const;    // of the layers that are here
  uint64_t weight_bytes() const;  // the same

  // OK when `settings` can run on this model: Validate(geometry), softmax mode only when the model
  // has no LoLA weights (its feature_dim is 0), and no softmax window beyond config's
  // sliding_window.
  // Settings are the whole model's.
  absl::Status CheckSettings(const memory::LolaSettings& settings) const;

  // Why Step would refuse the segment with nothing touched, see Segment::status; else OK.
  absl::Status CheckSegment(const Segment& segment) const;

  // One pass over all rows of all segments. INVALID_ARGUMENT when the call as a whole is wrong (no
  // rows, more rows than the workspace has); per-segment trouble is in Segment::status and leaves
  // the other segments alone. Two segments must not share a record.
  absl::Status Step(std::span<Segment> segments, StepWorkspace& workspace,
                    kernels::ThreadPool& pool) const;

 private:
  friend class StepWorkspace;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Ready-made shapes for Model::Random: "tiny" (tests), "reference", "100m", "llama-3.2-1b",
// "llama-3.1-8b".
// NOT_FOUND naming the known ones.
absl::StatusOr<ModelConfig> NamedGeometry(std::string_view name);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_MODEL_H_
