// The scripted workload of the crash test, and what the store must say after any part of it.
// Deterministic: child and judge make the same list. One thread.
#ifndef LOLA_TESTS_E2E_CRASH_SCRIPT_H_
#define LOLA_TESTS_E2E_CRASH_SCRIPT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "memory/store/stream_store.h"

namespace lola::crash {

// What is known of one stream from acknowledged operations.
struct Stream {
  std::vector<int32_t> tokens;
  std::multimap<uint64_t, std::string> snapshots;  // position -> name, "" = automatic
  uint64_t epoch = 0;
  bool owned = false;

  bool operator==(const Stream&) const = default;
};
using Model = std::map<std::string, Stream>;

// One call of the store. Doing it twice is a retry: OK, and nothing changes the second time, except
// acquire and rewind, which raise the epoch.
struct Operation {
  std::string name;
  std::function<absl::Status(store::StreamStore&, const Model&)> run;
  std::function<void(Model&)> apply;
};

std::vector<Operation> Script();

// The store as a model: every stream with all its tokens; every snapshot's bytes are read and must
// be the ones SnapshotBytes gives for its position. A problem is an error.
absl::StatusOr<Model> ReadModel(store::StreamStore& store);

std::string SnapshotBytes(uint64_t position);

store::StoreOptions ScriptOptions(const std::string& folder);

}  // namespace lola::crash

#endif  // LOLA_TESTS_E2E_CRASH_SCRIPT_H_
