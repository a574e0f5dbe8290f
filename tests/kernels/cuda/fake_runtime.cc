#include "tests/kernels/cuda/fake_runtime.h"

#include <cstdlib>
#include <cstring>
#include <utility>

namespace lola::cuda::fake {
namespace {

Runtime g_runtime;
thread_local cudaError_t t_last = cudaSuccess;

struct Event {
  bool late = false;  // recorded while the machine was busy
};

}  // namespace

Runtime& It() { return g_runtime; }
void Reset() {
  g_runtime = Runtime();
  t_last = cudaSuccess;
}

// As the real runtime does, also for cudaErrorNotReady.
cudaError_t Said(cudaError_t status) {
  if (status != cudaSuccess) t_last = status;
  return status;
}
template <typename Handle>
Handle Made() {
  ++It().objects;
  return reinterpret_cast<Handle>(new Event);
}
template <typename Handle>
cudaError_t Destroyed(Handle handle) {
  --It().objects;
  delete reinterpret_cast<Event*>(handle);
  return cudaSuccess;
}
template <typename Handle>
cublasStatus_t MadeFor(Handle* handle) {
  *handle = Made<Handle>();
  return CUBLAS_STATUS_SUCCESS;
}
template <typename Handle>
cublasStatus_t Dropped(Handle handle) {
  Destroyed(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cudaError_t Allocated(void** data, size_t bytes) {
  if (It().allocation != cudaSuccess) return Said(It().allocation);
  ++It().objects;
  *data = std::malloc(bytes);
  return cudaSuccess;
}
cudaError_t Freed(void* data) {
  if (data != nullptr) --It().objects;
  std::free(data);
  return cudaSuccess;
}

}  // namespace lola::cuda::fake

using namespace lola::cuda::fake;  // the rest are the C names of the libraries

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(t_last, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorNotReady ? "not ready" : "failed";
}
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = It().driver, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof(*properties));
  std::strcpy(properties->name, "fake");
  properties->major = It().compute_major;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  if (It().kernel_version == 0) return Said(cudaErrorNoKernelImageForDevice);
  attributes->ptxVersion = It().kernel_version;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = 1;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, size_t bytes) { return Allocated(data, bytes); }
cudaError_t cudaMallocHost(void** data, size_t bytes) { return Allocated(data, bytes); }
cudaError_t cudaFree(void* data) { return Freed(data); }
cudaError_t cudaFreeHost(void* data) { return Freed(data); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  *stream = Made<cudaStream_t>();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return Destroyed(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = Made<cudaEvent_t>();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return Destroyed(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  reinterpret_cast<Event*>(event)->late = It().busy;
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (reinterpret_cast<Event*>(event)->late && It().busy) return Said(cudaErrorNotReady);
  return Said(It().finished);
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return Said(It().finished); }

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode mode) {
  It().capturing = true;
  return mode == cudaStreamCaptureModeThreadLocal ? cudaSuccess : Said(cudaErrorInvalidValue);
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  It().capturing = false;
  if (It().capture_end != cudaSuccess) return Said(It().capture_end);
  *graph = Made<cudaGraph_t>();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t, unsigned long long) {
  *ready = Made<cudaGraphExec_t>();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return Destroyed(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return Destroyed(graph); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return ++It().replays, cudaSuccess; }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  if (It().launch != cudaSuccess) return Said(It().launch);
  It().launches.push_back({kernel, config->numAttrs > 0, It().capturing});
  return cudaSuccess;
}

size_t cublasLtGetVersion() { return 130000; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return MadeFor(handle); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return Dropped(handle); }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* product, cublasComputeType_t,
                                        cudaDataType_t) {
  return MadeFor(product);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product) { return Dropped(product); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t,
                                              const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType, uint64_t,
                                          uint64_t, int64_t) {
  return MadeFor(layout);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return Dropped(layout);
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  It().alignments.clear();
  return MadeFor(preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return Dropped(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  if (bytes == sizeof(uint32_t)) std::memcpy(&It().alignments[attribute], value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  results[0] = {};
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t*,
                                                    cublasLtMatmulAlgoConfigAttributes_t,
                                                    void* value, size_t bytes, size_t* written) {
  std::memset(value, 0, bytes);
  *written = bytes;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       const cublasLtMatmulAlgo_t*,
                                       cublasLtMatmulHeuristicResult_t* result) {
  *result = {};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*,
                              cublasLtMatrixLayout_t, const void*, cublasLtMatrixLayout_t,
                              const void*, const void*, cublasLtMatrixLayout_t, void*,
                              cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t*, void*, size_t,
                              cudaStream_t) {
  ++It().products;
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
