#ifndef LOLA_MEMORY_STORE_LEASE_TABLE_H_
#define LOLA_MEMORY_STORE_LEASE_TABLE_H_

// Leases, one per worker instance and in memory only: an instance renews all its streams of this
// shard with one call. A lease says how long an owner may not be replaced without `takeover`; what
// keeps an old owner from writing is the epoch. After a restart every instance named in a record
// starts with a whole lease. Any thread.

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace lola::store {

class LeaseTable {
 public:
  // `instance` owns one stream more. Its lease never gets shorter by it.
  void AddStream(const std::string& instance, int64_t until_ms) {
    std::lock_guard lock(mu_);
    Lease& lease = leases_[instance];
    ++lease.streams;
    lease.until_ms = std::max(lease.until_ms, until_ms);
  }
  // One stream less; an instance without streams is forgotten.
  void RemoveStream(const std::string& instance) {
    std::lock_guard lock(mu_);
    const auto found = leases_.find(instance);
    if (found != leases_.end() && --found->second.streams == 0) leases_.erase(found);
  }
  // Returns how many streams it owns.
  uint64_t Renew(const std::string& instance, int64_t until_ms) {
    std::lock_guard lock(mu_);
    const auto found = leases_.find(instance);
    if (found == leases_.end()) return 0;
    found->second.until_ms = std::max(found->second.until_ms, until_ms);
    return found->second.streams;
  }
  // 0 when it does not run.
  int64_t RemainingMs(const std::string& instance, int64_t now_ms) const {
    std::lock_guard lock(mu_);
    const auto found = leases_.find(instance);
    return found == leases_.end() ? 0 : std::max<int64_t>(0, found->second.until_ms - now_ms);
  }
  // How long ago it ended, 0 while it runs; nullopt for an instance without streams.
  std::optional<int64_t> OverMs(const std::string& instance, int64_t now_ms) const {
    std::lock_guard lock(mu_);
    const auto found = leases_.find(instance);
    if (found == leases_.end()) return std::nullopt;
    return std::max<int64_t>(0, now_ms - found->second.until_ms);
  }
  uint64_t owned_streams() const {
    std::lock_guard lock(mu_);
    uint64_t streams = 0;
    for (const auto& [instance, lease] : leases_) streams += lease.streams;
    return streams;
  }

 private:
  struct Lease {
    int64_t until_ms = 0;  // Clock::MonotonicMs
    uint64_t streams = 0;
  };
  mutable std::mutex mu_;
  std::map<std::string, Lease> leases_;  // guarded by mu_
};

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_LEASE_TABLE_H_
