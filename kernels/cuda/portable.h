// The vocabulary of device code, so that kernels compile with nvcc for a GPU and with any C++
// compiler for the emulation. Kernels use nothing of CUDA but what is here.
//
// Blocks are one-dimensional; shared memory is one dynamic piece per block (at most 48 KiB).
#ifndef LOLA_KERNELS_CUDA_PORTABLE_H_
#define LOLA_KERNELS_CUDA_PORTABLE_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define LOLA_DEVICE __device__ __forceinline__
#define LOLA_KERNEL __global__ void
#define LOLA_BOUNDS(threads) __launch_bounds__(threads)
// So many blocks on a multiprocessor at least: keeps registers down.
#define LOLA_BOUNDS_BLOCKS(threads, blocks) __launch_bounds__(threads, blocks)
#define LOLA_UNROLL _Pragma("unroll")

namespace lola::cuda {

struct alignas(16) Vec16 {
  uint32_t word[4];
};

LOLA_DEVICE unsigned ThreadX() { return threadIdx.x; }
LOLA_DEVICE unsigned BlockX() { return blockIdx.x; }
LOLA_DEVICE unsigned BlockY() { return blockIdx.y; }
LOLA_DEVICE unsigned BlockZ() { return blockIdx.z; }
LOLA_DEVICE unsigned BlockSize() { return blockDim.x; }
// First thing in every kernel: a kernel may be started while the one before it still runs, and
// waits here until that one's writes are there. The next one may then be started in its turn.
LOLA_DEVICE void AwaitPrevious() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
LOLA_DEVICE void SyncThreads() { __syncthreads(); }
LOLA_DEVICE void SyncWarp() { __syncwarp(); }
LOLA_DEVICE float ShuffleXor(float value, unsigned mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
LOLA_DEVICE uint32_t ShuffleXor(uint32_t value, unsigned mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
LOLA_DEVICE uint32_t Ballot(bool value) { return __ballot_sync(0xffffffffu, value); }
LOLA_DEVICE unsigned CountBits(uint32_t value) { return __popc(value); }
LOLA_DEVICE unsigned char* SharedBytes() {
  extern __shared__ __align__(16) unsigned char lola_shared_bytes[];
  return lola_shared_bytes;
}
LOLA_DEVICE Vec16 Load16(const void* from) {
  const uint4 v = *static_cast<const uint4*>(from);
  return {{v.x, v.y, v.z, v.w}};
}
LOLA_DEVICE void Load8Bytes(const void* from, uint32_t& a, uint32_t& b) {
  const uint2 v = *static_cast<const uint2*>(from);
  a = v.x;
  b = v.y;
}
LOLA_DEVICE void Store8Bytes(void* to, uint32_t a, uint32_t b) {
  *static_cast<uint2*>(to) = make_uint2(a, b);
}
LOLA_DEVICE void StorePair(float* to, float a, float b) {
  *reinterpret_cast<float2*>(to) = make_float2(a, b);
}
LOLA_DEVICE float BitsToFloat(uint32_t bits) { return __uint_as_float(bits); }
LOLA_DEVICE float Product(float a, float b) { return __fmul_rn(a, b); }
LOLA_DEVICE uint32_t FloatBits(float value) { return __float_as_uint(value); }
LOLA_DEVICE void AtomicAdd(unsigned long long* to, unsigned long long value) {
  atomicAdd(to, value);
}

}  // namespace lola::cuda

#else  // emulation

#include <bit>

#include "kernels/cuda/emulation/grid.h"

#define LOLA_DEVICE inline
#define LOLA_KERNEL inline void
#define LOLA_BOUNDS(threads)
#define LOLA_BOUNDS_BLOCKS(threads, blocks)
#define LOLA_UNROLL

namespace lola::cuda {

struct alignas(16) Vec16 {
  uint32_t word[4];
};

inline unsigned ThreadX() { return emulation::Here().thread.x; }
inline unsigned BlockX() { return emulation::Here().block.x; }
inline unsigned BlockY() { return emulation::Here().block.y; }
inline unsigned BlockZ() { return emulation::Here().block.z; }
inline unsigned BlockSize() { return emulation::Here().block_size.x; }
inline void AwaitPrevious() { emulation::Arrive(); }
inline void SyncThreads() { emulation::SyncThreads(); }
inline void SyncWarp() { emulation::SyncWarp(); }
// Rounded before anything is added to it, where others may be fused.
inline float Product(float a, float b) { return a * b; }
inline float BitsToFloat(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t FloatBits(float value) { return std::bit_cast<uint32_t>(value); }
inline uint32_t ShuffleXor(uint32_t value, unsigned mask) {
  return emulation::Exchange(value, (ThreadX() % 32) ^ mask);
}
inline float ShuffleXor(float value, unsigned mask) {
  return BitsToFloat(ShuffleXor(FloatBits(value), mask));
}
inline uint32_t Ballot(bool value) { return emulation::Ballot(value); }
inline unsigned CountBits(uint32_t value) { return static_cast<unsigned>(std::popcount(value)); }
inline unsigned char* SharedBytes() { return emulation::SharedBytes(); }
inline Vec16 Load16(const void* from) {
  Vec16 v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
// 8-byte aligned, these three.
inline void Load8Bytes(const void* from, uint32_t& a, uint32_t& b) {
  std::memcpy(&a, from, 4);
  std::memcpy(&b, static_cast<const unsigned char*>(from) + 4, 4);
}
inline void Store8Bytes(void* to, uint32_t a, uint32_t b) {
  std::memcpy(to, &a, 4);
  std::memcpy(static_cast<unsigned char*>(to) + 4, &b, 4);
}
inline void StorePair(float* to, float a, float b) {
  to[0] = a;
  to[1] = b;
}
inline void AtomicAdd(unsigned long long* to, unsigned long long value) { *to += value; }

}  // namespace lola::cuda

#endif

namespace lola::cuda {

constexpr unsigned kWarpThreads = 32;
constexpr size_t kSharedBytesMax = 48 * 1024;  // of a block, without asking for more

// bfloat16 as stored; rounding to nearest even, as on the CPU.
struct Bf16 {
  uint16_t bits;
};

LOLA_DEVICE float ToFloat(float value) { return value; }
LOLA_DEVICE float ToFloat(Bf16 value) { return BitsToFloat(uint32_t(value.bits) << 16); }
LOLA_DEVICE void Put(float& to, float value) { to = value; }
LOLA_DEVICE void Put(Bf16& to, float value) {
  const uint32_t bits = FloatBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    to.bits = uint16_t((bits >> 16) | 0x40u);
  } else {
    to.bits = uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
}

// Sums over a warp and over a block: one fixed tree, so the same bits every time. All threads take
// part and all get the result. `scratch`: 32 floats of shared memory, free again on return.
LOLA_DEVICE float WarpSum(float value) {
  LOLA_UNROLL
  for (unsigned mask = 16; mask > 0; mask /= 2) value += ShuffleXor(value, mask);
  return value;
}
LOLA_DEVICE float WarpMax(float value) {
  LOLA_UNROLL
  for (unsigned mask = 16; mask > 0; mask /= 2) value = fmaxf(value, ShuffleXor(value, mask));
  return value;
}
LOLA_DEVICE float BlockSum(float value, float* scratch) {
  value = WarpSum(value);
  if (ThreadX() % kWarpThreads == 0) scratch[ThreadX() / kWarpThreads] = value;
  SyncThreads();
  float sum = 0;
  for (unsigned i = 0; i < BlockSize() / kWarpThreads; ++i) sum += scratch[i];
  SyncThreads();
  return sum;
}
LOLA_DEVICE float BlockMax(float value, float* scratch) {
  value = WarpMax(value);
  if (ThreadX() % kWarpThreads == 0) scratch[ThreadX() / kWarpThreads] = value;
  SyncThreads();
  float top = scratch[0];
  for (unsigned i = 1; i < BlockSize() / kWarpThreads; ++i) top = fmaxf(top, scratch[i]);
  SyncThreads();
  return top;
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_PORTABLE_H_
