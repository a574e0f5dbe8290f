// Private parts of Model and StepWorkspace; included by model.cc, step.cc and step_workspace.cc
// only.
#ifndef LOLA_SERVICES_ENGINE_MODEL_IMPL_H_
#define LOLA_SERVICES_ENGINE_MODEL_IMPL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/rope/rope.h"
#include "memory/stream/layer_memory.h"
#include "memory/stream/layout.h"
#include "memory/stream/statistics.h"
#include "services/engine/model.h"
#include "services/engine/weights.h"

namespace lola::engine {

struct Model::Impl {
  ModelConfig config;
  LayerRange layers;
  memory::ModelGeometry layers_geometry;
  WeightDtype dtype;
  ModelWeights weights;
  std::string fingerprint_hex;
  std::vector<double> frequencies;  // [head_dim / 2]
};

// What passes need for streams of one kind of settings: made at first sight, then reused.
struct SettingsPlan {
  SettingsPlan(const memory::LolaSettings& settings, std::span<const double> frequencies);

  memory::LolaSettings settings;
  uint64_t last_used = 0;
  kernels::RotationTable distances;  // constant scheme: rows 0 .. window + chunk - 1
  kernels::RotationTable memory;     // constant scheme: one row, memory_distance
};

// A segment that takes part in a pass.
struct ActiveSegment {
  Segment* segment;
  SettingsPlan* plan;
  uint64_t position;  // before the pass
  size_t first_row;
  size_t rows;
  memory::RotationTables rope;
};

// One kv head of one segment: the piece of work of the layer memory.
struct MemoryTask {
  uint32_t segment;  // index into active
  uint32_t kv_head;
  memory::MemoryStats stats;
};

struct StepWorkspace::Buffers {
  Buffers(const Model& model, size_t max_rows, int threads);
  SettingsPlan* FindPlan(const memory::StateLayout& layout);

  const Model& model;
  const size_t max_rows;
  const int threads;
  std::vector<float> x;         // [max_rows, hidden]: the residual stream
  std::vector<float> normed;    // [max_rows, hidden]
  std::vector<float> qkv;       // [max_rows, (Hq + 2 Hkv) d]
  std::vector<float> attended;  // [max_rows, Hq d]
  std::vector<float> gate_up;   // [max_rows, 2 ffn]
  std::vector<float> cos, sin;  // [max_rows, d / 2]: absolute rotations
  std::vector<float> head_in;   // [kHeadRows, hidden]; both empty without the last layer
  std::vector<float> head_out;  // [kHeadRows, vocab]
  std::vector<ActiveSegment> active;
  std::vector<MemoryTask> tasks;
  std::vector<std::unique_ptr<SettingsPlan>> plans;
  std::vector<std::unique_ptr<memory::Scratch>> scratch;  // one per thread, grown by new plans
  uint64_t clock = 0;                                     // passes, for the age of plans
  StepTimes times;
};

// Rows of the head matrix product done at once; bounds head_out for large vocabularies.
inline constexpr size_t kHeadRows = 32;
// Kinds of settings kept ready by one workspace; the oldest unused one makes room.
inline constexpr size_t kPlansMax = 16;

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_MODEL_IMPL_H_
