// Row helpers for samplers: maximum, softmax and log-sum-exp of one row of logits. Any thread.
//
// Reductions run in one order that depends on n alone. A NaN anywhere makes the sum NaN, so that
// callers can refuse it.
#ifndef LOLA_KERNELS_SOFTMAX_SOFTMAX_H_
#define LOLA_KERNELS_SOFTMAX_SOFTMAX_H_

#include <cstddef>

namespace lola::kernels {

// Index of the largest value; the smallest index wins ties; NaN never wins. REQUIRES: n > 0.
size_t ArgMax(const float* values, size_t n);

// probabilities[i] = exp(scale * (logits[i] - max)) / sum. Returns log(sum exp(scale * logits)) as
// float64. probabilities may be logits. REQUIRES: n > 0, scale > 0.
double Softmax(const float* logits, size_t n, float scale, float* probabilities);
double SoftmaxRef(const float* logits, size_t n, float scale, float* probabilities);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_SOFTMAX_SOFTMAX_H_
