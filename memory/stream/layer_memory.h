// The memory of one layer of one stream: push rows, attend, and at chunk boundaries keep the pairs
// the recurrent state recalls worst and absorb the rest. A view over a record; owns nothing.
//
// Threads: different kv heads of one layer, different layers and different streams may run at the
// same time; one kv head is advanced by one thread at a time, in order of position.
//
// Determinism: the record and the outputs after n tokens are a function of weights, settings and
// the n rows alone. How they were cut into Advance calls changes no bit.
#ifndef LOLA_MEMORY_STREAM_LAYER_MEMORY_H_
#define LOLA_MEMORY_STREAM_LAYER_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "memory/stream/layout.h"
#include "memory/stream/statistics.h"

namespace lola::memory {

struct ScratchBuffers;

// Working memory of one worker thread; sized once for a layout, reusable for every stream, layer
// and head of that layout (and of any layout that needs no more). Not thread-safe.
class Scratch {
 public:
  explicit Scratch(const StateLayout& layout);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Grows to what `layout` needs: the only place besides construction that allocates.
  void Reserve(const StateLayout& layout);
  ScratchBuffers& buffers() { return *buffers_; }

 private:
  std::unique_ptr<ScratchBuffers> buffers_;
};

// Rotations a segment needs. All rows are [head_dim / 2]; see kernels/rope/rope.h to fill them.
struct RotationTables {
  // Rotary scheme and softmax mode: rows for absolute positions position .. position + rows - 1 of
  // the call.
  const float* absolute_cos = nullptr;
  const float* absolute_sin = nullptr;
  // Constant scheme: rows for distances 0 .. window + chunk - 1, and one row for memory_distance.
  const float* distance_cos = nullptr;
  const float* distance_sin = nullptr;
  const float* memory_cos = nullptr;
  const float* memory_sin = nullptr;
};

// Weights of one group of query heads that share a kv head. Null in softmax mode.
struct HeadGroupWeights {
  const float* map_q = nullptr;  // [group, d, f], f = F / 2
  const float* map_k = nullptr;  // [group, d, f]
  const float* gate = nullptr;   // [group]; sigmoid already applied
};

struct AdvanceParams {
  uint64_t position = 0;  // of the first row: tokens consumed before this call
  size_t rows = 0;
  // Raw projections, not rotated. Pointers stand at this kv head: query head i of the group at
  // q + row * q_stride + i * d, the same for out.
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  size_t q_stride = 0;
  size_t k_stride = 0;
  size_t v_stride = 0;
  float* out = nullptr;
  size_t out_stride = 0;
  const RotationTables* rope = nullptr;
  HeadGroupWeights weights;
  Scratch* scratch = nullptr;
  MemoryStats* stats = nullptr;
};

class LayerMemory {
 public:
  // `layout` and `record` outlive the view. REQUIRES: record is layout.stride_bytes() long.
  LayerMemory(const StateLayout* layout, std::byte* record, uint32_t layer);

  // Consumes rows at positions position .. position + rows - 1 for one kv head: writes their keys
  // and values, writes the attention output of every query head of the group, and runs the events
  // at the chunk boundaries passed. NaN and Inf are counted in stats->nonfinite(); the caller then
  // refuses the step. Allocates nothing.
  // REQUIRES: rows arrive in order for each kv head; in softmax mode position + rows <= window.
  void Advance(uint32_t kv_head, const AdvanceParams& params);

 private:
  const StateLayout* layout_;
  std::byte* record_;
  uint32_t layer_;
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_LAYER_MEMORY_H_
