#ifndef LOLA_MEMORY_STORE_EXPIRY_QUEUE_H_
#define LOLA_MEMORY_STORE_EXPIRY_QUEUE_H_

// When to look at a stream whether it has expired: one time for each stream, whatever was set
// before, so that it grows with the streams that are there and not with those that were. Times are
// milliseconds of the store's clock. Any thread.

#include <cstdint>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

namespace lola::store {

class ExpiryQueue {
 public:
  void Set(const std::string& stream_id, int64_t at_ms) {
    std::lock_guard lock(mu_);
    const auto [found, fresh] = times_.try_emplace(stream_id, at_ms);
    if (!fresh) order_.erase({std::exchange(found->second, at_ms), stream_id});
    order_.emplace(at_ms, stream_id);
  }
  void Remove(const std::string& stream_id) {
    std::lock_guard lock(mu_);
    const auto found = times_.find(stream_id);
    if (found == times_.end()) return;
    order_.erase({found->second, stream_id});
    times_.erase(found);
  }
  // Takes out the stream whose time came first; nullopt when none has come.
  std::optional<std::string> PopDue(int64_t now_ms) {
    std::lock_guard lock(mu_);
    if (order_.empty() || order_.begin()->first > now_ms) return std::nullopt;
    std::string stream_id = std::move(order_.extract(order_.begin()).value().second);
    times_.erase(stream_id);
    return stream_id;
  }
  size_t size() const {
    std::lock_guard lock(mu_);
    return order_.size();
  }

 private:
  mutable std::mutex mu_;
  std::set<std::pair<int64_t, std::string>> order_;  // guarded by mu_, as the next one
  std::unordered_map<std::string, int64_t> times_;
};

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_EXPIRY_QUEUE_H_
