#include "services/worker/pair_contexts.h"

#include <algorithm>
#include <utility>

namespace lola::worker {
namespace {

constexpr uint64_t kJoinGap = 512;       // reading so many tokens more beats another call
constexpr uint64_t kRangeMax = 1 << 16;  // tokens of one read

// One inspection's reading; keeps itself alive through its callbacks.
class Reader : public std::enable_shared_from_this<Reader> {
 public:
  Reader(std::shared_ptr<engine::StreamBackend> backend,
         std::shared_ptr<const engine::Tokenizer> tokenizer, std::string stream_id,
         std::vector<uint64_t> positions, uint64_t end, std::function<void(Contexts)> done)
      : backend_(std::move(backend)),
        tokenizer_(std::move(tokenizer)),
        stream_id_(std::move(stream_id)),
        positions_(std::move(positions)),
        ranges_(ContextRanges(positions_, end)),
        done_(std::move(done)) {
    std::sort(positions_.begin(), positions_.end());
    positions_.erase(std::unique(positions_.begin(), positions_.end()), positions_.end());
  }

  void Next() {
    if (next_ == ranges_.size()) return done_(std::move(contexts_));
    const LogRange range = ranges_[next_++];
    backend_->ReadTokens(stream_id_, range.from, range.to,
                         [self = shared_from_this(), range](auto runs) {
                           if (runs.ok()) self->Take(range, *runs);
                           self->Next();
                         });
  }

 private:
  void Take(const LogRange& range, const std::vector<engine::TokenRun>& runs) {
    std::vector<int32_t> ids;
    for (const engine::TokenRun& run : runs) ids.insert(ids.end(), run.ids.begin(), run.ids.end());
    auto position = std::lower_bound(positions_.begin(), positions_.end(), range.from);
    for (; position != positions_.end() && *position < range.to; ++position) {
      const uint64_t from = *position - std::min(*position - range.from, kContextTokens);
      const uint64_t to = std::min(*position + kContextTokens + 1, range.to);
      engine::TextDecoder decoder;
      if (from == 0 && tokenizer_->drops_leading_space()) decoder.DropLeadingSpace();
      std::string text;
      for (uint64_t p = from; p < to && p - range.from < ids.size(); ++p) {
        text += decoder.Push(tokenizer_->TokenBytes(ids[size_t(p - range.from)]));
      }
      text += decoder.Finish();
      for (char& c : text) {
        if (c >= 0 && c < 32) c = ' ';
      }
      contexts_[*position] = std::move(text);
    }
  }

  const std::shared_ptr<engine::StreamBackend> backend_;
  const std::shared_ptr<const engine::Tokenizer> tokenizer_;
  const std::string stream_id_;
  std::vector<uint64_t> positions_;
  const std::vector<LogRange> ranges_;
  std::function<void(Contexts)> done_;
  size_t next_ = 0;
  Contexts contexts_;
};

}  // namespace

std::vector<LogRange> ContextRanges(std::vector<uint64_t> positions, uint64_t end) {
  std::sort(positions.begin(), positions.end());
  std::vector<LogRange> ranges;
  for (uint64_t position : positions) {
    if (position >= end) continue;
    const LogRange one{position - std::min(position, kContextTokens),
                       std::min(end, position + kContextTokens + 1)};
    const bool join = !ranges.empty() && one.from <= ranges.back().to + kJoinGap &&
                      one.to - ranges.back().from <= kRangeMax;
    if (join) {
      ranges.back().to = one.to;
    } else {
      ranges.push_back(one);
    }
  }
  return ranges;
}

void ReadContexts(std::shared_ptr<engine::StreamBackend> backend,
                  std::shared_ptr<const engine::Tokenizer> tokenizer, std::string stream_id,
                  std::vector<uint64_t> positions, uint64_t end,
                  std::function<void(Contexts)> done) {
  std::make_shared<Reader>(std::move(backend), std::move(tokenizer), std::move(stream_id),
                           std::move(positions), end, std::move(done))
      ->Next();
}

}  // namespace lola::worker
