// Runs device kernels on the CPU, thread by thread: every device thread is a fiber that gives way
// at barriers and warp exchanges. Slow and exact: it lets the same kernel source be tested,
// sanitised and debugged on machines without a GPU. One block runs at a time, and in it one thread
// until it gives way; blocks and threads take turns in another order every time, so that a barrier
// that is missing shows as a wrong result sooner or later.
//
// Not thread-safe: one grid at a time per host thread. A barrier that some threads of a block (or a
// warp exchange that some lanes of a warp) never reach is a programmer error and ends the process.
#ifndef LOLA_KERNELS_CUDA_EMULATION_GRID_H_
#define LOLA_KERNELS_CUDA_EMULATION_GRID_H_

#include <cstddef>
#include <cstdint>
#include <functional>

namespace lola::cuda::emulation {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Where the running device thread stands; what threadIdx and its kin mean.
struct Place {
  Dim3 thread, block, block_size, grid;
};
const Place& Here();

// Runs `body` once per device thread of every block. Blocks are one-dimensional inside (threads),
// as all our kernels are. `shared_bytes` are what SharedBytes() returns; they start out as 0xCD,
// because real shared memory starts out as anything.
void RunGrid(Dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& body);

// What AwaitPrevious means here: every thread of a kernel comes by, or Leave ends the process.
void Arrive();
void Leave();

unsigned char* SharedBytes();
void SyncThreads();
void SyncWarp();
// Words of lane `lane` of the calling thread's warp, for exchanges of more than one word: write
// your own, SyncWarp, read those of others, SyncWarp.
inline constexpr unsigned kWarpWords = 8;
uint32_t* WarpWords(unsigned lane);
// Every lane of the warp gives `value` and gets that of lane `from` (both 32 bits).
uint32_t Exchange(uint32_t value, unsigned from);
// Bit i is set when lane i gave true.
uint32_t Ballot(bool value);

}  // namespace lola::cuda::emulation

#endif  // LOLA_KERNELS_CUDA_EMULATION_GRID_H_
