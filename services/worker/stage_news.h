// What the log says about a stage that is away. Private to services/worker; one thread.
#ifndef LOLA_SERVICES_WORKER_STAGE_NEWS_H_
#define LOLA_SERVICES_WORKER_STAGE_NEWS_H_

#include <chrono>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "services/rpc/logging.h"
#include "services/rpc/status_map.h"

namespace lola::worker {

// Says in the log how a stage does: each news once, and now and then that nothing changed.
class StageNews {
 public:
  explicit StageNews(std::string address) : address_(std::move(address)) {}
  void Away(const absl::Status& status) {
    const std::chrono::steady_clock::time_point now = std::chrono::steady_clock::now();
    const std::string text = status.ToString();
    if (text == said_ && now - at_ < kSayAgain) return;
    said_ = text;
    at_ = now;
    rpc::LogWarn("stage is away, trying again", {{"stage", address_}, {"status", status}});
  }
  void Joined() { said_.clear(); }

 private:
  static constexpr std::chrono::milliseconds kSayAgain{10'000};  // that it is still away
  const std::string address_;
  std::string said_;
  std::chrono::steady_clock::time_point at_;
};

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_STAGE_NEWS_H_
