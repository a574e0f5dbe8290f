// The CUDA runtime and cuBLASLt as the host side of the real device uses them, without a GPU:
// memory is the host's, kernels and products are counted and not run, and the last error of a
// thread is kept as the real runtime keeps it. Linking this in place of the libraries shows what
// the device does with answers that hardware seldom gives. Not thread-safe.
#ifndef LOLA_TESTS_KERNELS_CUDA_FAKE_RUNTIME_H_
#define LOLA_TESTS_KERNELS_CUDA_FAKE_RUNTIME_H_

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <vector>

namespace lola::cuda::fake {

struct Launched {
  const void* kernel = nullptr;
  bool early = false;  // may start while the kernel ahead runs
  bool recorded = false;
};

struct Runtime {
  // What the machine is and answers.
  int compute_major = 9;
  int driver = 13000;
  int kernel_version = 90;  // kernels were made for this; 0: none are for this device
  bool busy = false;        // nothing that is enqueued comes to an end
  cudaError_t launch = cudaSuccess;
  cudaError_t allocation = cudaSuccess;
  cudaError_t capture_end = cudaSuccess;
  cudaError_t finished = cudaSuccess;  // what waiting for an event says

  // What was asked of it.
  std::vector<Launched> launches;
  int products = 0;
  int replays = 0;
  int objects = 0;  // made and not destroyed: memory, streams, events, graphs, descriptors
  bool capturing = false;
  std::map<int, uint32_t> alignments;  // of the latest search for an algorithm, by attribute
};

// The one that all calls go to; made anew by Reset.
Runtime& It();
void Reset();

}  // namespace lola::cuda::fake

#endif  // LOLA_TESTS_KERNELS_CUDA_FAKE_RUNTIME_H_
