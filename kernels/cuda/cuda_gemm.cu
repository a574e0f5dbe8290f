#include "kernels/cuda/cuda_gemm.h"

namespace lola::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// Row-major output [rows, out] is a column-major out x rows matrix: W^T (in x out, transposed)
// times X^T (in x rows). The invariant algorithm is the one chosen for this many rows.
constexpr size_t kReferenceRows = 128;
constexpr int kCandidates = 32;
// An invariant algorithm must take all of these: few rows, odd ones, many.
constexpr size_t kRowsToServe[] = {1, 2, 7, 64, kReferenceRows, 1000, 4096};

// Matrices begin at 256 bytes, or whole rows behind that: what every row begins at.
uint32_t RowAlignment(size_t row_bytes) {
  uint32_t bytes = 256;
  while (row_bytes % bytes != 0) bytes /= 2;
  return bytes;
}

std::string Failed(const char* what, cublasStatus_t status) {
  return std::string(what) + ": cuBLASLt status " + std::to_string(int(status));
}

}  // namespace

// Descriptors of one product; freed on destruction.
struct CudaGemm::Layouts {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weights = nullptr, input = nullptr, output = nullptr;

  cublasStatus_t Make(const GemmCall& call, size_t rows) {
    const cudaDataType_t type = call.type == MatrixType::kFloat32 ? CUDA_R_32F : CUDA_R_16BF;
    cublasStatus_t status = cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof(transposed));
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatrixLayoutCreate(&weights, type, call.in, call.out, int64_t(call.in));
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatrixLayoutCreate(&input, type, call.in, rows, int64_t(call.in));
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatrixLayoutCreate(&output, CUDA_R_32F, call.out, rows, int64_t(call.out));
    }
    return status;
  }
  ~Layouts() {
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
    if (weights != nullptr) cublasLtMatrixLayoutDestroy(weights);
    if (input != nullptr) cublasLtMatrixLayoutDestroy(input);
    if (output != nullptr) cublasLtMatrixLayoutDestroy(output);
  }
};

std::string CudaGemm::Create(GemmPolicy policy) {
  policy_ = policy;
  if (const cublasStatus_t status = cublasLtCreate(&handle_); status != CUBLAS_STATUS_SUCCESS) {
    return Failed("cublasLtCreate", status);
  }
  if (const cudaError_t error = cudaMalloc(&workspace_, kWorkspaceBytes); error != cudaSuccess) {
    return std::string("cuBLASLt workspace: ") + cudaGetErrorString(error);
  }
  return {};
}

CudaGemm::~CudaGemm() {
  if (workspace_ != nullptr) cudaFree(workspace_);
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

// Whether the algorithm sums every output in one piece and runs for any number of rows.
bool CudaGemm::IsInvariant(const GemmCall& call, const cublasLtMatmulAlgo_t& algo) const {
  int32_t pieces = 0;
  size_t written = 0;
  if (cublasLtMatmulAlgoConfigGetAttribute(&algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &pieces,
                                           sizeof(pieces), &written) != CUBLAS_STATUS_SUCCESS ||
      pieces > 1) {
    return false;
  }
  for (const size_t rows : kRowsToServe) {
    Layouts layouts;
    if (layouts.Make(call, rows) != CUBLAS_STATUS_SUCCESS) return false;
    cublasLtMatmulHeuristicResult_t result;
    const cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle_, layouts.operation, layouts.weights, layouts.input,
                                layouts.output, layouts.output, &algo, &result);
    if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > kWorkspaceBytes) return false;
  }
  return true;
}

// Rows of a lane begin anywhere (services/engine/device), so the library may not count on the 256
// bytes that it takes for granted.
cublasStatus_t CudaGemm::PreferAlignments(const GemmCall& call,
                                          cublasLtMatmulPreference_t preference) {
  const uint32_t weights = RowAlignment(0);
  const uint32_t input = RowAlignment(call.in * MatrixBytes(call.type));
  const uint32_t output = RowAlignment(call.out * sizeof(float));
  const std::pair<cublasLtMatmulPreferenceAttributes_t, uint32_t> all[] = {
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, weights},
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, input},
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, output},
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, output}};
  for (const auto& [attribute, bytes] : all) {
    const cublasStatus_t status =
        cublasLtMatmulPreferenceSetAttribute(preference, attribute, &bytes, sizeof(bytes));
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  return CUBLAS_STATUS_SUCCESS;
}

std::string CudaGemm::Choose(const GemmCall& call, size_t rows, cublasLtMatmulAlgo_t* algo) {
  Layouts layouts;
  cublasStatus_t status = layouts.Make(call, rows);
  if (status != CUBLAS_STATUS_SUCCESS) return Failed("gemm descriptors", status);
  cublasLtMatmulPreference_t preference = nullptr;
  status = cublasLtMatmulPreferenceCreate(&preference);
  if (status != CUBLAS_STATUS_SUCCESS) return Failed("gemm preference", status);
  status =
      cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                           &kWorkspaceBytes, sizeof(kWorkspaceBytes));
  if (policy_ == GemmPolicy::kInvariant && status == CUBLAS_STATUS_SUCCESS) {
    const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;  // no split sums
    status = cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof(none));
  }
  if (status == CUBLAS_STATUS_SUCCESS) status = PreferAlignments(call, preference);
  cublasLtMatmulHeuristicResult_t results[kCandidates];
  int found = 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasLtMatmulAlgoGetHeuristic(handle_, layouts.operation, layouts.weights,
                                            layouts.input, layouts.output, layouts.output,
                                            preference, kCandidates, results, &found);
  }
  cublasLtMatmulPreferenceDestroy(preference);
  for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < found; ++i) {
    if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
    if (policy_ == GemmPolicy::kInvariant && !IsInvariant(call, results[i].algo)) continue;
    *algo = results[i].algo;
    return {};
  }
  return Failed("no algorithm for a product", status) + ", out " + std::to_string(call.out) +
         ", in " + std::to_string(call.in) + ", rows " + std::to_string(rows) + ", " +
         std::to_string(found) + " offered" +
         (policy_ == GemmPolicy::kInvariant ? ", none for any number of rows" : "");
}

std::string CudaGemm::Run(const GemmCall& call, cudaStream_t stream) {
  size_t bucket = 0;
  if (policy_ == GemmPolicy::kFastest) {
    for (bucket = 1; bucket < call.rows; bucket *= 2) {
    }
  }
  const Key key{call.type, call.out, call.in, bucket, call.accumulate};
  auto chosen = chosen_.find(key);
  if (chosen == chosen_.end()) {
    cublasLtMatmulAlgo_t algo;
    std::string failed =
        Choose(call, policy_ == GemmPolicy::kInvariant ? kReferenceRows : bucket, &algo);
    // What the library offers for many rows may not do for few: ask for others before giving up.
    for (const size_t rows : kRowsToServe) {
      if (failed.empty() || policy_ != GemmPolicy::kInvariant) break;
      failed = Choose(call, rows, &algo);
    }
    if (!failed.empty()) return failed;
    chosen = chosen_.emplace(key, algo).first;
  }
  Layouts layouts;
  cublasStatus_t status = layouts.Make(call, call.rows);
  if (status != CUBLAS_STATUS_SUCCESS) return Failed("gemm descriptors", status);
  const float one = 1.0f, add = call.accumulate ? 1.0f : 0.0f;
  status = cublasLtMatmul(handle_, layouts.operation, &one, call.weights, layouts.weights,
                          call.input, layouts.input, &add, call.output, layouts.output, call.output,
                          layouts.output, &chosen->second, workspace_, kWorkspaceBytes, stream);
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return Failed("product", status) + ", out " + std::to_string(call.out) + ", in " +
         std::to_string(call.in) + ", rows " + std::to_string(call.rows);
}

}  // namespace lola::cuda
