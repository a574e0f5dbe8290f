#include "services/worker/load_sender.h"

#include <algorithm>
#include <utility>

#include "services/worker/stage_messages.h"

namespace lola::worker {

LoadSender::~LoadSender() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void LoadSender::Send(Load load) {
  {
    std::lock_guard lock(mu_);
    queue_.push_back(std::move(load));
  }
  wake_.notify_one();
}

void LoadSender::Loop() {
  std::unique_lock lock(mu_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const Load load = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    SendNow(load);
    lock.lock();
  }
}

// A session that is over says so to the load itself.
void LoadSender::SendNow(const Load& load) {
  v1::StageRequest request;
  *request.mutable_load() = load.head;
  request.set_payload_bytes(load.sections.size());
  if (!load.session->WriteBehind(request)) return;
  request.Clear();
  request.mutable_load_part()->set_id(load.head.id());
  for (std::span<const std::byte> rest = load.sections; !rest.empty() && !stopping();) {
    const auto piece = rest.first(std::min(rest.size(), kStagePieceBytes));
    request.set_payload(piece.data(), piece.size());
    if (!load.session->WriteBehind(request)) return;
    rest = rest.subspan(piece.size());
  }
}

}  // namespace lola::worker
