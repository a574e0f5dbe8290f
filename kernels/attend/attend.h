// Attention of one query head over spans of raw pairs (sparse cache, window chunks) and a recurrent
// state, mixed in the overflow-free form.
//
//   l = scale * (q . k) over all live pairs of all spans
//   softmax part: S = sum exp(l - m) v, s0 = sum exp(l - m)
//   linear part:  N = phi^T H, n0 = phi . s
//   kPlain    m = max l                y = S / s0
//   kShifted  m = max(0, max l)        y = (ws S + wl e^-m N) / (ws s0 + wl e^-m n0 + eps e^-m)
//   kRowMax   m = max l                y = (ws S + wl N) / (ws s0 + wl n0)
//
// Spans in the order given, pairs ascending within a span, features ascending: each output element
// is reduced in that one order, whatever the number of query rows in the call. Any thread.
// Tolerance against the double reference: 2e-5 of the largest |v|.
#ifndef LOLA_KERNELS_ATTEND_ATTEND_H_
#define LOLA_KERNELS_ATTEND_ATTEND_H_

#include <cstddef>
#include <cstdint>

#include "kernels/core/bf16.h"

namespace lola::kernels {

// Keys are stored in blocks of sixteen pairs: [pairs / 16, head_dim, 16], so that lanes are pairs.
inline constexpr size_t kKeyBlock = 16;

constexpr size_t RoundUpToKeyBlock(size_t n) { return (n + kKeyBlock - 1) / kKeyBlock * kKeyBlock; }

// Offset of element `dim` of pair `row` in blocked keys.
constexpr size_t KeyOffset(size_t row, size_t dim, size_t head_dim) {
  return row / kKeyBlock * kKeyBlock * head_dim + dim * kKeyBlock + row % kKeyBlock;
}

struct AttendSpan {
  const void* keys = nullptr;    // blocked, as above; readable up to a whole block
  const void* values = nullptr;  // [pairs, head_dim]; readable up to a whole block
  size_t pairs = 0;              // live pairs for query row 0
  bool causal = false;           // query row r sees pairs + r pairs; last span only
  // float8 only: exponents of the rows, [pairs], readable up to a whole block.
  const int8_t* key_exponents = nullptr;
  const int8_t* value_exponents = nullptr;
  const float* queries = nullptr;  // [rows, head_dim] contiguous, as this span needs them rotated
  // When given, each pair's weight (its share of the denominator) is added up here, query rows in
  // order; [pairs], writable up to a whole block, to which dead pairs add zero.
  float* mass = nullptr;
};
// Pairs beyond the live ones, up to the end of the block, must hold finite numbers.

enum class AttendMix : uint8_t { kPlain, kShifted, kRowMax };

struct AttendParams {
  const AttendSpan* spans = nullptr;
  size_t span_count = 0;
  Dtype dtype = Dtype::kFloat32;  // of keys and values
  size_t rows = 0;
  size_t head_dim = 0;  // multiple of 16
  float scale = 1;
  AttendMix mix = AttendMix::kPlain;
  // For the linear part; unused by kPlain.
  const float* features = nullptr;  // [rows, feature_dim] contiguous
  const float* h = nullptr;         // [feature_dim, head_dim]
  const float* s = nullptr;         // [feature_dim]
  size_t feature_dim = 0;           // multiple of 16
  float softmax_weight = 1;         // ws
  float linear_weight = 0;          // wl
  float epsilon = 0;
  float* out = nullptr;  // rows out_stride floats apart
  size_t out_stride = 0;
  float* scratch = nullptr;  // AttendScratchFloats(...) floats
};

// Floats of scratch for any call whose spans have at most `pairs` live pairs for the last row, each
// span rounded up to whole blocks.
constexpr size_t AttendScratchFloats(size_t pairs) { return 8 * pairs; }

// Returns how many output rows hold a NaN or Inf. REQUIRES: every row sees at least one pair.
size_t Attend(const AttendParams& params);
size_t AttendRef(const AttendParams& params);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_ATTEND_ATTEND_H_
