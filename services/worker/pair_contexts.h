// Readable text around the positions a sparse cache keeps, read from the log. Asynchronous: one
// range after the other, so that an inspection takes little of a shard's time.
#ifndef LOLA_SERVICES_WORKER_PAIR_CONTEXTS_H_
#define LOLA_SERVICES_WORKER_PAIR_CONTEXTS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/runtime/stream_backend.h"
#include "services/engine/tokenizer.h"

namespace lola::worker {

inline constexpr uint64_t kContextTokens = 12;  // on either side of a position

// Ranges of the log that cover the contexts of `positions` (any order); close ones are joined.
struct LogRange {
  uint64_t from = 0;
  uint64_t to = 0;  // exclusive
  bool operator==(const LogRange&) const = default;
};
std::vector<LogRange> ContextRanges(std::vector<uint64_t> positions, uint64_t end);

// Text of each position's surroundings. Parts of the log that cannot be read (trimmed) give none.
using Contexts = std::map<uint64_t, std::string>;
void ReadContexts(std::shared_ptr<engine::StreamBackend> backend,
                  std::shared_ptr<const engine::Tokenizer> tokenizer, std::string stream_id,
                  std::vector<uint64_t> positions, uint64_t end,
                  std::function<void(Contexts)> done);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_PAIR_CONTEXTS_H_
