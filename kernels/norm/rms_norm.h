// RMSNorm: output[r, i] = input[r, i] * weight[i] / sqrt(mean over i of input[r, i]^2 + eps).
//
// Any thread; rows may run on all threads of the pool. The mean is reduced in one order that
// depends on n alone. output may be the same array as input with the same stride. Tolerance against
// the double reference: 1e-5 relative.
#ifndef LOLA_KERNELS_NORM_RMS_NORM_H_
#define LOLA_KERNELS_NORM_RMS_NORM_H_

#include <cstddef>

#include "kernels/core/thread_pool.h"

namespace lola::kernels {

// input, output: [rows, n] contiguous; weight: [n]. REQUIRES: n > 0.
void RmsNormRows(const float* input, const float* weight, float eps, size_t rows, size_t n,
                 float* output, ThreadPool& pool);

void RmsNormRowsRef(const float* input, const float* weight, float eps, size_t rows, size_t n,
                    float* output);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_NORM_RMS_NORM_H_
