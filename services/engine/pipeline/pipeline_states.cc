#include "services/engine/pipeline/pipeline_states.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "memory/stream/stream_state.h"

namespace lola::engine {
namespace {

// One of the copies that may be under way; given back when the last holder is done.
class CopyPermit {
 public:
  explicit CopyPermit(std::shared_ptr<std::atomic<size_t>> used) : used_(std::move(used)) {
    ++*used_;
  }
  ~CopyPermit() { --*used_; }
  CopyPermit(const CopyPermit&) = delete;
  CopyPermit& operator=(const CopyPermit&) = delete;

 private:
  const std::shared_ptr<std::atomic<size_t>> used_;
};

// One load into all parts of a slot.
class Parts {
 public:
  Parts(size_t count, std::shared_ptr<std::atomic<size_t>> on_their_way,
        ResidentStates::Arrived arrived)
      : on_their_way_(std::move(on_their_way)), arrived_(std::move(arrived)), left_(count) {
    ++*on_their_way_;
  }
  // Once per part, any thread.
  void Done(const absl::Status& status) {
    {
      std::lock_guard lock(mu_);
      status_.Update(status);
      if (--left_ > 0) return;
    }
    --*on_their_way_;
    arrived_(status_);
  }

 private:
  const std::shared_ptr<std::atomic<size_t>> on_their_way_;
  const ResidentStates::Arrived arrived_;
  std::mutex mu_;
  size_t left_;          // guarded by mu_
  absl::Status status_;  // guarded by mu_ until left_ is 0
};

// Copies of many megabytes, one after another, so that the scheduler need not wait for them.
class Copier {
 public:
  Copier() : thread_([this] { Loop(); }) {}
  ~Copier() {
    {
      std::lock_guard lock(mu_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  void Do(std::function<void()> copy) {
    {
      std::lock_guard lock(mu_);
      queue_.push_back(std::move(copy));
    }
    wake_.notify_one();
  }

 private:
  void Loop() {
    std::unique_lock lock(mu_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      const std::function<void()> copy = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      copy();
      lock.lock();
    }
  }

  std::mutex mu_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;  // guarded by mu_
  bool stopping_ = false;                    // guarded by mu_
  std::thread thread_;                       // last: starts when all else exists
};

class PipelineStates : public ResidentStates {
 public:
  PipelineStates(LayerStage* front, std::span<const std::unique_ptr<StageLink>> stages,
                 size_t copies)
      : front_(*front), stages_(stages), copies_max_(copies), slots_(front->slots()) {
    for (Slot& slot : slots_) slot.on_their_way = std::make_shared<std::atomic<size_t>>(0);
  }

  absl::StatusOr<size_t> Acquire() override {
    for (size_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].taken || *slots_[slot].on_their_way > 0) continue;
      slots_[slot].taken = true;
      return slot;
    }
    return absl::ResourceExhaustedError(absl::StrCat("slots: all ", slots_.size(), " in use"));
  }
  void Release(size_t slot) override {
    LOLA_CHECK(slots_.at(slot).taken);
    slots_[slot].taken = false;
    slots_[slot].layout.reset();
  }

  absl::Status Reset(size_t slot, const memory::StateLayout& layout,
                     const std::array<std::byte, 16>& model_fingerprint) override {
    LOLA_CHECK(model_fingerprint == front_.model().fingerprint_bytes());
    slots_.at(slot).layout.emplace(layout);
    absl::Status status = front_.Reset(slot, layout.settings());
    for (const auto& stage : stages_) {
      if (status.ok()) status = stage->Reset(slot, layout.settings());
    }
    return status;
  }

  // Memory beside the slots: the record is whole only here.
  Staging Stage(size_t, size_t bytes) override {
    std::byte* data = AllocateHost(bytes);
    LOLA_CHECK(data != nullptr) << "staging of " << bytes << " bytes";
    return {std::shared_ptr<void>(data, [](void* p) { std::free(p); }), std::span(data, bytes)};
  }

  void Bring(size_t slot, const memory::StateLayout& layout, const Staging& staging,
             const Arrived& arrived) override {
    LOLA_CHECK_EQ(staging.bytes.size(), layout.stride_bytes());
    slots_.at(slot).layout.emplace(layout);
    const uint64_t position = memory::StreamState(&layout, staging.bytes).position();
    const RecordPiece here = PieceOf(layout, front_.model().layers());
    absl::Status begun = front_.BeginLoad(slot, layout.settings(), position, here.bytes);
    if (!begun.ok()) return arrived(begun);
    // Done when the last part is: the copy here, and one load per stage.
    auto parts = std::make_shared<Parts>(1 + stages_.size(), slots_[slot].on_their_way, arrived);
    const auto done = [parts](const absl::Status& status) { parts->Done(status); };
    const std::span<std::byte> space = *front_.LoadSpace(slot);
    copier_.Do([space, staging, here, done] {
      std::memcpy(space.data(), staging.bytes.data() + here.offset, here.bytes);
      done(absl::OkStatus());
    });
    for (const auto& stage : stages_) {
      const RecordPiece piece = PieceOf(layout, stage->layers());
      stage->Load(slot, layout.settings(), position, staging.owner,
                  staging.bytes.subspan(piece.offset, piece.bytes), done);
    }
  }
  // The stages have taken theirs.
  absl::Status Adopt(size_t slot, const memory::StateLayout&, const Staging&) override {
    return front_.Loaded(slot);
  }

  absl::StatusOr<StateCopy> Copy(size_t slot, std::span<std::byte> to) override {
    const memory::StateLayout& layout = *slots_.at(slot).layout;
    LOLA_CHECK_EQ(to.size(), layout.stride_bytes());
    if (*copies_ >= copies_max_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("state copies: ", copies_->load(), " of ", copies_max_, " under way"));
    }
    auto permit = std::make_shared<CopyPermit>(copies_);
    struct Part {
      PieceCopy arrived;
      std::span<std::byte> to;
    };
    std::vector<Part> parts;
    for (const auto& stage : stages_) {
      const RecordPiece piece = PieceOf(layout, stage->layers());
      absl::StatusOr<PieceCopy> copy = stage->Copy(slot, piece.bytes);
      if (!copy.ok()) return copy.status();
      parts.push_back({*std::move(copy), to.subspan(piece.offset, piece.bytes)});
    }
    // The header page is in front of the first layers, which are here.
    const absl::StatusOr<size_t> bytes = front_.RecordBytes(slot);
    if (!bytes.ok()) return bytes.status();
    absl::StatusOr<StateCopy> here = front_.Copy(slot, to.first(*bytes));
    if (!here.ok()) return here.status();
    return StateCopy([parts = std::move(parts), permit, here = *std::move(here), layout, to,
                      fingerprint = front_.model().fingerprint_bytes(),
                      position = front_.position(slot)] {
      absl::Status status = here();
      for (const Part& part : parts) status.Update(part.arrived(part.to));
      memory::StreamState(&layout, to).WriteHeader(fingerprint, position);
      return status;
    });
  }
  absl::Status CountCached(std::span<const Held> states, std::span<uint64_t> cached) override {
    std::vector<size_t> slots;
    for (const Held& held : states) slots.push_back(held.slot);
    absl::Status status = front_.CountCached(slots, cached);
    std::vector<uint64_t> there(slots.size());
    for (const auto& stage : stages_) {
      if (status.ok()) status = stage->CountCached(slots, there);
      for (size_t i = 0; status.ok() && i < slots.size(); ++i) cached[i] += there[i];
    }
    return status;
  }

  std::byte* AllocateHost(size_t bytes) override {
    return static_cast<std::byte*>(std::aligned_alloc(memory::kPageBytes, bytes));
  }
  void FreeHost(std::byte* data) override { std::free(data); }
  std::span<std::byte> record(size_t, size_t) override { return {}; }

 private:
  struct Slot {
    bool taken = false;
    std::shared_ptr<std::atomic<size_t>> on_their_way;  // loads whose end is not known yet
    std::optional<memory::StateLayout> layout;          // of the whole record
  };

  LayerStage& front_;
  const std::span<const std::unique_ptr<StageLink>> stages_;
  const size_t copies_max_;
  std::vector<Slot> slots_;
  const std::shared_ptr<std::atomic<size_t>> copies_ = std::make_shared<std::atomic<size_t>>(0);
  Copier copier_;
};

}  // namespace

std::unique_ptr<ResidentStates> MakePipelineStates(
    LayerStage* front, std::span<const std::unique_ptr<StageLink>> stages, size_t copies) {
  return std::make_unique<PipelineStates>(front, stages, copies);
}

}  // namespace lola::engine
