// Matrix products with weights packed once: output[r, o] = sum over i of input[r, i] * W[o, i].
//
// Order (the determinism rule): every output element is one chain over i ascending, in float32 with
// fused multiply-add (float32 weights), or over pairs (2i, 2i+1) ascending with the pair's two
// products added as the instruction class defines, which on matrix tiles is 16 pairs at a time
// (bfloat16 weights; inputs are rounded to bfloat16 first). Neither the number of rows nor the
// pool's threads nor the place of a row changes a bit.
//
// int8 weights: W[o, i] = scale[o] * q[o, i], scale[o] = max over i |W[o, i]| / 127, q rounded to
// nearest even. The input is quantised too, per row and group of 64 inputs g:
// x[i] ~ step[g] * p[i], step[g] = m / 127, p[i] = round(x[i] * (127 / m)), m = max over g |x[i]|
// (all zero when m < 1e-30, which no activation of a working model is near). Then
//   output[o] = scale[o] * sum over g ascending of float(sum over i in g of q[o, i] * p[i]) *
//   step[g]
// where the inner sum is a whole number below 2^24, hence exact in any order, and product and sum
// over g are rounded separately: the same bits in every instruction class.
//
// float8 weights: each output's row is rounded to 8-bit floats with one power of two
// (kernels/core/float8.h). Such numbers are bfloat16 numbers too, and here they are kept and
// multiplied as these: a CPU gains no memory by them. It is the arithmetic of devices that do.
//
// Any thread; the product may run on all threads of the pool. Tolerance against the double
// reference: |error| <= 2e-7 * in * max|x||w| for float32; the narrower types add the rounding
// of the input, which the reference does too.
#ifndef LOLA_KERNELS_GEMM_GEMM_H_
#define LOLA_KERNELS_GEMM_GEMM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/core/bf16.h"
#include "kernels/core/thread_pool.h"

namespace lola::kernels {

// Outputs per panel. A panel is contiguous: [in, 32] floats, [ceil(in / 2), 32, 2] bfloat16 (float8
// too), or [ceil(in / 64) * 16, 32, 4] bytes q + 128 followed by 32 float scales.
inline constexpr size_t kPanelOutputs = 32;
inline constexpr size_t kInt8Group = 64;

// A weight matrix [out, in] in panel order, padded with zeros to whole panels. Immutable once its
// rows are set.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  // `source` is row-major [out, in]. REQUIRES: source.size() == out * in, both positive.
  static PackedMatrix Pack(std::span<const float> source, size_t out, size_t in, Dtype dtype);
  // For matrices that are read in pieces: all zero, then rows set in any order, each once.
  static PackedMatrix Zeros(size_t out, size_t in, Dtype dtype);
  // `rows` is row-major [n, in]. REQUIRES: n whole, first_row + n <= out.
  void SetRows(size_t first_row, std::span<const float> rows);
  // What bytes() of such a matrix is.
  static size_t PackedBytes(size_t out, size_t in, Dtype dtype);

  size_t out() const { return out_; }
  size_t in() const { return in_; }
  Dtype dtype() const { return dtype_; }
  size_t panels() const { return (out_ + kPanelOutputs - 1) / kPanelOutputs; }
  size_t bytes() const { return panels() * panel_bytes(); }
  size_t panel_bytes() const { return PanelBytes(in_, dtype_); }
  const std::byte* panel(size_t index) const { return data_.get() + index * panel_bytes(); }

  // One weight as the kernels see it (after rounding to dtype).
  float At(size_t output, size_t input) const;
  // All weights of one output, the same way. `row` has room for in() values.
  void CopyRow(size_t output, float* row) const;

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  static size_t PanelBytes(size_t in, Dtype dtype);
  std::byte* MutablePanel(size_t index) { return data_.get() + index * panel_bytes(); }
  void SetInt8Row(size_t output, const float* row);

  size_t out_ = 0;
  size_t in_ = 0;
  Dtype dtype_ = Dtype::kFloat32;
  std::unique_ptr<std::byte[], Free> data_;  // 64-byte aligned
};

struct GemmParams {
  const PackedMatrix* weights = nullptr;
  const float* input = nullptr;  // [rows, in], rows input_stride floats apart
  size_t input_stride = 0;
  float* output = nullptr;  // [rows, out], rows output_stride floats apart; not overlapping input
  size_t output_stride = 0;
  size_t rows = 0;
  bool accumulate = false;  // output += product instead of output = product
};

// REQUIRES: input_stride >= in, output_stride >= out. rows == 0 is allowed and does nothing.
void Gemm(const GemmParams& params, ThreadPool& pool);

// The specification: plain loops, double accumulation, input rounded like the real one.
void GemmRef(const GemmParams& params);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_GEMM_GEMM_H_
