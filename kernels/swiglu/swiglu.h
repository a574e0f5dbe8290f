// SwiGLU: output[r, i] = silu(gate[r, i]) * up[r, i], silu(x) = x / (1 + exp(-x)).
//
// Any thread; rows may run on all threads of the pool. Elementwise: an element's value depends on
// nothing but its two inputs. output may be gate or up (same stride). Tolerance against the double
// reference: 2e-6 relative.
#ifndef LOLA_KERNELS_SWIGLU_SWIGLU_H_
#define LOLA_KERNELS_SWIGLU_SWIGLU_H_

#include <cstddef>

#include "kernels/core/thread_pool.h"

namespace lola::kernels {

// All [rows, n], rows `*_stride` floats apart (so gate and up may be halves of one product).
struct SwigluParams {
  const float* gate = nullptr;
  size_t gate_stride = 0;
  const float* up = nullptr;
  size_t up_stride = 0;
  float* output = nullptr;
  size_t output_stride = 0;
  size_t rows = 0;
  size_t n = 0;
};

void Swiglu(const SwigluParams& params, ThreadPool& pool);
void SwigluRef(const SwigluParams& params);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_SWIGLU_SWIGLU_H_
