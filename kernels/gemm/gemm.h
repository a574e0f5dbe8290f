// Matrix products with weights packed once: output[r, o] = sum over i of input[r, i] * W[o, i].
//
// Order (the determinism rule): every output element is one chain over i ascending, in float32 with
// fused multiply-add (float32 weights), or over pairs (2i, 2i+1) ascending with the pair's two
// products added as the instruction class defines (bfloat16 weights; inputs are rounded to bfloat16
// first). Neither the number of rows nor the pool's threads nor the place of a row changes a bit.
//
// Any thread; the product may run on all threads of the pool. Tolerance against the double
// reference: |error| <= 2e-7 * in * max|x||w| for float32; bfloat16 adds the rounding of the input.
#ifndef LOLA_KERNELS_GEMM_GEMM_H_
#define LOLA_KERNELS_GEMM_GEMM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/core/bf16.h"
#include "kernels/core/thread_pool.h"

namespace lola::kernels {

// Outputs per panel. A panel is contiguous: [in, 32] floats, or [ceil(in / 2), 32, 2] bfloat16.
inline constexpr size_t kPanelOutputs = 32;

// A weight matrix [out, in] in panel order, padded with zeros to whole panels. Immutable.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  // `source` is row-major [out, in]. REQUIRES: source.size() == out * in, both positive.
  static PackedMatrix Pack(std::span<const float> source, size_t out, size_t in, Dtype dtype);
  static PackedMatrix Pack(std::span<const BFloat16> source, size_t out, size_t in, Dtype dtype);

  size_t out() const { return out_; }
  size_t in() const { return in_; }
  Dtype dtype() const { return dtype_; }
  size_t panels() const { return (out_ + kPanelOutputs - 1) / kPanelOutputs; }
  size_t bytes() const { return panels() * panel_bytes(); }
  size_t panel_bytes() const {
    return dtype_ == Dtype::kFloat32 ? in_ * kPanelOutputs * 4 : (in_ + 1) / 2 * kPanelOutputs * 4;
  }
  const std::byte* panel(size_t index) const { return data_.get() + index * panel_bytes(); }

  // One weight as the kernels see it (after rounding to dtype).
  float At(size_t output, size_t input) const;

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  template <typename Source>
  static PackedMatrix PackAny(std::span<const Source> source, size_t out, size_t in, Dtype dtype);

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
