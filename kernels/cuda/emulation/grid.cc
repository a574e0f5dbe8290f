#include "kernels/cuda/emulation/grid.h"

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "kernels/core/check.h"

namespace lola::cuda::emulation {
namespace {

namespace context = boost::context;

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 64 * 1024;

enum class Wait : uint8_t { kNothing, kWarp, kBlock, kDone };

struct Lane {
  context::fiber fiber;
  Wait wait = Wait::kNothing;
  bool arrived = false;
};

// The numbers below n, once each, in an order that differs from call to call.
class AnyOrder {
 public:
  explicit AnyOrder(size_t n) : n_(n) {
    thread_local std::minstd_rand random(1);
    at_ = random() % n;
    do {
      stride_ = 1 + random() % n;
    } while (std::gcd(stride_, n) != 1);
  }
  size_t Next() { return at_ = (at_ + stride_) % n_; }

 private:
  size_t n_, at_, stride_;
};

// One block while it runs.
class Block {
 public:
  Block(unsigned threads, size_t shared_bytes, const std::function<void()>& body,
        context::pooled_fixedsize_stack& stacks)
      : lanes_(threads), warp_slots_(threads * kWarpWords), shared_(shared_bytes + 1), body_(body) {
    std::memset(shared_.data(), 0xCD, shared_.size());
    for (Lane& lane : lanes_) {
      lane.fiber = context::fiber(std::allocator_arg, stacks, [this, &lane](context::fiber&& main) {
        main_ = std::move(main);
        body_();
        lane.wait = Wait::kDone;
        return std::move(main_);
      });
    }
  }

  void Run(Place& place);
  void Yield(Wait wait);
  unsigned char* shared() { return shared_.data(); }
  unsigned lane_count() const { return static_cast<unsigned>(lanes_.size()); }
  uint32_t& slot(unsigned thread) { return warp_slots_[thread * kWarpWords]; }
  bool& arrived() { return lanes_[running_].arrived; }

 private:
  bool ReleaseWarps();
  bool ReleaseBlock();

  std::vector<Lane> lanes_;
  std::vector<uint32_t> warp_slots_;
  std::vector<unsigned char> shared_;
  const std::function<void()>& body_;
  context::fiber main_;
  unsigned running_ = 0;
};

thread_local Place t_place;
thread_local Block* t_block = nullptr;

void Block::Run(Place& place) {
  unsigned done = 0;
  while (done < lanes_.size()) {
    bool moved = false;
    AnyOrder order(lanes_.size());
    for (size_t n = 0; n < lanes_.size(); ++n) {
      const unsigned i = static_cast<unsigned>(order.Next());
      if (lanes_[i].wait != Wait::kNothing) continue;
      place.thread.x = i;
      running_ = i;
      lanes_[i].fiber = std::move(lanes_[i].fiber).resume();
      done += lanes_[i].wait == Wait::kDone ? 1 : 0;
      moved = true;
    }
    if (done < lanes_.size() && !ReleaseWarps() && !ReleaseBlock()) {
      LOLA_CHECK(moved) << "block " << place.block.x << "," << place.block.y << "," << place.block.z
                        << ": some threads never reach the barrier that others wait at";
    }
  }
}

// Lanes that have ended do not count, as on the device.
bool Block::ReleaseWarps() {
  bool released = false;
  for (size_t begin = 0; begin < lanes_.size(); begin += kWarp) {
    const size_t end = std::min(begin + kWarp, lanes_.size());
    bool all = true, any = false;
    for (size_t i = begin; i < end; ++i) {
      all = all && (lanes_[i].wait == Wait::kWarp || lanes_[i].wait == Wait::kDone);
      any = any || lanes_[i].wait == Wait::kWarp;
    }
    if (!all || !any) continue;
    for (size_t i = begin; i < end; ++i) {
      if (lanes_[i].wait == Wait::kWarp) lanes_[i].wait = Wait::kNothing;
    }
    released = true;
  }
  return released;
}

bool Block::ReleaseBlock() {
  for (const Lane& lane : lanes_) {
    if (lane.wait != Wait::kBlock && lane.wait != Wait::kDone) return false;
  }
  for (Lane& lane : lanes_) {
    if (lane.wait == Wait::kBlock) lane.wait = Wait::kNothing;
  }
  return true;
}

void Block::Yield(Wait wait) {
  lanes_[running_].wait = wait;
  main_ = std::move(main_).resume();
}

}  // namespace

const Place& Here() { return t_place; }
void Arrive() { t_block->arrived() = true; }
void Leave() { LOLA_CHECK(t_block->arrived()) << "a kernel without AwaitPrevious"; }
unsigned char* SharedBytes() { return t_block->shared(); }
void SyncThreads() { t_block->Yield(Wait::kBlock); }
void SyncWarp() { t_block->Yield(Wait::kWarp); }

uint32_t* WarpWords(unsigned lane) {
  return &t_block->slot(t_place.thread.x / kWarp * kWarp + lane);
}

uint32_t Exchange(uint32_t value, unsigned from) {
  const unsigned thread = t_place.thread.x;
  t_block->slot(thread) = value;
  SyncWarp();
  const unsigned source = thread / kWarp * kWarp + from % kWarp;
  const uint32_t result = source < t_block->lane_count() ? t_block->slot(source) : value;
  SyncWarp();
  return result;
}

uint32_t Ballot(bool value) {
  const unsigned thread = t_place.thread.x;
  t_block->slot(thread) = value ? 1 : 0;
  SyncWarp();
  uint32_t bits = 0;
  const unsigned begin = thread / kWarp * kWarp;
  for (unsigned i = 0; i < kWarp && begin + i < t_block->lane_count(); ++i) {
    bits |= t_block->slot(begin + i) << i;
  }
  SyncWarp();
  return bits;
}

void RunGrid(Dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& body) {
  LOLA_CHECK(t_block == nullptr) << "a grid inside a grid";
  context::pooled_fixedsize_stack stacks(kStackBytes);
  const size_t blocks = size_t{grid.x} * grid.y * grid.z;
  if (blocks == 0) return;
  AnyOrder order(blocks);
  for (size_t n = 0; n < blocks; ++n) {
    const size_t at = order.Next();
    const auto x = unsigned(at % grid.x), y = unsigned(at / grid.x % grid.y);
    t_place = {{0, 0, 0}, {x, y, unsigned(at / grid.x / grid.y)}, {threads, 1, 1}, grid};
    Block block(threads, shared_bytes, body, stacks);
    t_block = &block;
    block.Run(t_place);
    t_block = nullptr;
  }
}

}  // namespace lola::cuda::emulation
