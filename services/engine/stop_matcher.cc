#include "services/engine/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace lola::engine {

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

absl::Status StopRules::Validate() const {
  if (max_tokens == 0) return absl::InvalidArgumentError("max_tokens: 0, must be at least 1");
  if (stops.size() > kStopStringsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop: ", stops.size(), " strings, at most ", kStopStringsMax));
  }
  for (size_t i = 0; i < stops.size(); ++i) {
    const std::string field = absl::StrCat("stop[", i, "]");
    if (stops[i].empty() || stops[i].size() > kStopBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": ", stops[i].size(), " bytes, must be 1 to ", kStopBytesMax));
    }
    const absl::Status valid = CheckUtf8(stops[i], field);
    if (!valid.ok()) return valid;
  }
  return absl::OkStatus();
}

StopMatcher::StopMatcher(StopRules rules, const Tokenizer& tokenizer)
    : rules_(std::move(rules)), tokenizer_(&tokenizer) {
  LOLA_CHECK(rules_.Validate().ok());
}

StopMatcher::Verdict StopMatcher::Push(int32_t id) {
  Verdict verdict;
  ++tokens_;
  const bool eos =
      !rules_.ignore_eos && std::find(rules_.eos.begin(), rules_.eos.end(), id) != rules_.eos.end();
  const bool stopped = !eos && Append(decoder_.Push(tokenizer_->TokenBytes(id)));
  if (stopped) {
    verdict.reason = FinishReason::kStop;
    verdict.text = std::exchange(tail_, {});
    return verdict;
  }
  if (eos || tokens_ >= rules_.max_tokens) {
    verdict.reason = eos ? FinishReason::kEos : FinishReason::kLength;
    verdict.text = Flush();
    return verdict;
  }
  const size_t shown = tail_.size() - HeldBytes();
  verdict.text = tail_.substr(0, shown);
  tail_.erase(0, shown);
  return verdict;
}

std::string StopMatcher::Flush() { return std::exchange(tail_, {}) + decoder_.Finish(); }

bool StopMatcher::Append(std::string_view text) {
  for (const char c : text) {
    tail_.push_back(c);
    size_t longest = 0;
    for (const std::string& stop : rules_.stops) {
      if (tail_.ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) {
      tail_.resize(tail_.size() - longest);
      return true;
    }
  }
  return false;
}

size_t StopMatcher::HeldBytes() const {
  size_t held = 0;
  for (const std::string& stop : rules_.stops) {
    const size_t most = std::min(stop.size() - 1, tail_.size());
    for (size_t size = most; size > held; --size) {
      if (tail_.ends_with(std::string_view(stop).substr(0, size))) held = size;
    }
  }
  return held;
}

}  // namespace lola::engine
