// Matrix products through cuBLASLt, batch-invariant by default: one algorithm per weight shape,
// without split reductions, whatever the number of rows, so that a row's bits do not depend on how
// many others are in the step. Included by CUDA sources only. Not thread-safe.
#ifndef LOLA_KERNELS_CUDA_CUDA_GEMM_H_
#define LOLA_KERNELS_CUDA_CUDA_GEMM_H_

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "kernels/cuda/device.h"

namespace lola::cuda {

enum class GemmPolicy : uint8_t {
  kInvariant,  // same bits for any number of rows
  kFastest,    // the library's choice per number of rows: states may depend on the batch
};

class CudaGemm {
 public:
  // Empty result = fine, else what failed.
  std::string Create(GemmPolicy policy);
  ~CudaGemm();
  std::string Run(const GemmCall& call, cudaStream_t stream);

 private:
  struct Key {
    MatrixType type;
    size_t out, in, rows;  // rows: a bucket; 0 under kInvariant
    bool accumulate;
    auto Fields() const { return std::tie(type, out, in, rows, accumulate); }
    bool operator<(const Key& other) const { return Fields() < other.Fields(); }
  };
  struct Layouts;
  bool IsInvariant(const GemmCall& call, const cublasLtMatmulAlgo_t& algo) const;
  static cublasStatus_t PreferAlignments(const GemmCall& call,
                                         cublasLtMatmulPreference_t preference);
  std::string Choose(const GemmCall& call, size_t rows, cublasLtMatmulAlgo_t* algo);

  GemmPolicy policy_ = GemmPolicy::kInvariant;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, cublasLtMatmulAlgo_t> chosen_;
};

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_CUDA_GEMM_H_
