// Advances streams on a device: the same step as Model::Step, with the states in a DeviceArena.
//
// A step costs the host an upload of tables, one download of results, and one wait. Decode steps
// (one row a stream) are recorded once per number of rows, rounded up, and replayed: streams join
// and leave without a new recording. Long prefills go in two lanes (step_plan.h): what is done
// chunk after chunk runs on the scan queue, beside the matrix products of the other lane. Chunk
// events that no later row of the step sees run there too, beside the head. Not thread-safe.
//
// A model that holds a range of the layers takes or gives rows of the residual stream, as in
// Model::Step; the layouts of its segments are those of its layers (CutLayout). Cutting a model
// changes no bit.
//
// P2 holds within one kind of device and one GEMM policy; results agree with the CPU's to a
// tolerance, not to the bit.
#ifndef LOLA_SERVICES_ENGINE_DEVICE_DEVICE_STEPPER_H_
#define LOLA_SERVICES_ENGINE_DEVICE_DEVICE_STEPPER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "memory/stream/statistics.h"
#include "services/engine/device/device_arena.h"
#include "services/engine/device/device_weights.h"
#include "services/engine/device/plan_cache.h"
#include "services/engine/device/step_plan.h"
#include "services/engine/model.h"
#include "services/engine/runtime/statistics.h"
#include "services/engine/sampler.h"

namespace lola::engine {

// One stream's part of a step.
struct DeviceSegment {
  size_t slot = 0;  // of the arena
  const memory::StateLayout* layout = nullptr;
  std::span<const int32_t> tokens;  // at least one; none where layer 0 is elsewhere
  // Rows of the residual stream, [rows, hidden] in host memory: in where layer 0 is elsewhere, out
  // where the last layer is.
  std::span<const float> hidden_in;
  std::span<float> hidden_out;
  float* logits = nullptr;  // out [vocab], host: those after the last token; null = unwanted

  // Asks for a token after the last one.
  const SamplingParams* sampling = nullptr;
  std::span<const int32_t> recent;  // newest tokens of the stream

  // Out.
  SampledToken sampled;
  absl::Status status;  // as Segment::status
};

struct StepperOptions {
  size_t rows_max = 256;
  size_t logits_rows_max = 256;  // streams that sample or want logits in one step
  // Bounds how many chunk events run at once; grows to one.
  size_t event_work_bytes = size_t{256} << 20;
  size_t lane_rows_min = 512;  // rows of a step that goes in two lanes
  bool record_decode = true;
  // Recorded steps that are kept: kinds of steps come from streams' settings.
  size_t recordings_max = 256;
  // Set by Create: rows come or go, because the model is a range of layers.
  bool hidden_rows = false;
};

class DeviceStepper {
 public:
  // `arena` may be null and be given later. RESOURCE_EXHAUSTED naming what does not fit.
  static absl::StatusOr<std::unique_ptr<DeviceStepper>> Create(std::shared_ptr<const Model> model,
                                                               cuda::Device* device,
                                                               DeviceArena* arena,
                                                               const StepperOptions& options);
  ~DeviceStepper();

  // Between steps. REQUIRES: before the first Step, when Create got none.
  void UseArena(DeviceArena* arena) {
    arena_ = arena;
    spare_plan_ = nullptr;
  }
  // Makes room for streams with these settings ahead of their first step.
  absl::Status Reserve(const memory::LolaSettings& settings);

  // Why Step would refuse `rows` rows of this segment with nothing touched; else OK, and buffers
  // have room for it. Between steps.
  absl::Status Check(const DeviceSegment& segment, size_t rows);

  const Model& model() const { return *model_; }
  size_t rows_max() const { return options_.rows_max; }
  const RunnerCounters& counters() const { return counters_; }

  // INVALID_ARGUMENT for a call that is wrong as a whole, UNAVAILABLE when the device failed (no
  // state on it is to be trusted then). `stats` gets the counters of all segments together.
  absl::Status Step(std::span<DeviceSegment> segments, memory::MemoryStats* stats);

 private:
  struct Buffers;
  // What a recorded step depends on.
  struct GraphKey {
    size_t rows;
    uint32_t cache, window, linear, variants;
    bool masses, grouped;
    auto Fields() const { return std::tie(rows, cache, window, linear, variants, masses, grouped); }
    bool operator<(const GraphKey& other) const { return Fields() < other.Fields(); }
  };
  struct Recorded {
    cuda::GraphId id = 0;  // 0: ran once so far
    bool refused = false;
  };

  DeviceStepper(std::shared_ptr<const Model> model, cuda::Device* device, DeviceArena* arena,
                const StepperOptions& options);
  absl::Status Start();
  void ForgetGraphs();
  absl::Status Admit(std::span<DeviceSegment> segments);
  // Buffers for a step of these bounds. What fails may have taken what there was before.
  absl::Status MakeRoom(const cuda::Sections& sections, uint32_t variants,
                        const cuda::EventSizes& sizes);
  void FillTables();
  void FillPieces();
  void FillPadding();
  size_t RowsOf(const DeviceSegment& segment) const;
  void FillHeads();
  void UploadTables();
  void UploadHidden();
  bool Recordable() const;
  void Forward(size_t rows);
  void ForwardLanes(std::span<const Lane> lanes);
  void BeforeMemory(uint32_t layer, size_t first_row, size_t rows);
  void Memory(uint32_t layer, std::span<const Wave> waves, bool events);
  void AfterMemory(uint32_t layer, size_t first_row, size_t rows);
  void AttendWave(uint32_t layer, const Wave& wave);
  void Norm(const float* x, const uint32_t* pick, const DeviceArray<float>& weight, size_t rows,
            void* out);
  void Multiply(const DeviceWeights::Matrix& weights, const void* input, size_t rows, size_t out,
                size_t in, float* output, bool accumulate);
  void RunForward();
  cuda::Mark RunEventsBeside();
  void RunEvents(uint32_t first, uint32_t count);
  void Heads();
  void Collect(memory::MemoryStats* stats);

  const std::shared_ptr<const Model> model_;
  cuda::Device* const device_;
  DeviceArena* arena_;
  const StepperOptions options_;
  cuda::Shape shape_;
  DeviceWeights weights_;
  PlanCache plans_;
  std::unique_ptr<Buffers> b_;
  std::map<GraphKey, Recorded> graphs_;
  RunnerCounters counters_;
  const DevicePlan* spare_plan_ = nullptr;  // by which padding has written to the spare record

  // Of the step at hand.
  std::vector<DeviceSegment*> active_;
  std::vector<const DevicePlan*> active_plans_;
  std::vector<StepPart> parts_;
  StepPlan step_;
  size_t padded_ = 0;                    // rows of the step, with padding
  cuda::Sections sections_{}, spans_{};  // of attention, over all streams
  uint32_t variants_ = 1;
  bool grouped_ = false;   // all streams share their caches in groups
  bool masses_ = false;    // some stream's score is the attention its pairs receive
  bool absolute_ = false;  // some stream rotates by absolute positions
  cuda::EventSizes sizes_{};
  std::vector<uint32_t> heads_;  // active segments that want logits or a token
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_DEVICE_STEPPER_H_
