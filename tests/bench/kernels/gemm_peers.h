// Libraries the products are compared with, as far as this machine has them.
#ifndef LOLA_TESTS_BENCH_KERNELS_GEMM_PEERS_H_
#define LOLA_TESTS_BENCH_KERNELS_GEMM_PEERS_H_

#include <cstddef>
#include <functional>
#include <vector>

#include "kernels/core/bf16.h"

namespace lola::bench {

struct GemmPeer {
  const char* name;
  // Prepares weights [out, in]; the result computes y[rows, out] = x[rows, in] W^T. Empty when the
  // library cannot.
  std::function<std::function<void(const float* x, float* y)>(
      const std::vector<float>& weights, size_t rows, size_t in, size_t out, int threads)>
      prepare;
};

std::vector<GemmPeer> GemmPeers(kernels::Dtype dtype);

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_KERNELS_GEMM_PEERS_H_
