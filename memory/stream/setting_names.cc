// The words of every enumeration, both ways.
#include "absl/strings/str_cat.h"
#include "memory/stream/settings.h"
#include "memory/text.h"

namespace lola::memory {
namespace {

using kernels::Dtype;

constexpr std::array kScores = {Score::kSre,          Score::kValueNorm,
                                Score::kRandom,       Score::kLeaveOneOut,
                                Score::kRecency,      Score::kRelativeSre,
                                Score::kHypothetical, Score::kRelativeLeaveOneOut,
                                Score::kKeyNorm,      Score::kRelativeHypothetical,
                                Score::kAttention};

template <typename Enum, size_t kCount>
absl::StatusOr<Enum> Parse(std::string_view field, std::string_view text,
                           const std::array<Enum, kCount>& values) {
  std::string known;
  for (const Enum value : values) {
    if (Name(value) == text) return value;
    absl::StrAppend(&known, known.empty() ? "" : ", ", ToAbsl(Name(value)));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(ToAbsl(field), " \"", ToAbsl(text), "\" is unknown; known: ", known));
}

}  // namespace

std::string_view Name(Mode value) { return value == Mode::kLola ? "lola" : "softmax"; }

std::string_view Name(Mixing value) {
  switch (value) {
    case Mixing::kGatedNatural:
      return "gated_natural";
    case Mixing::kNatural:
      return "natural";
    case Mixing::kLolcats:
      return "lolcats";
  }
  return "unknown";
}

std::string_view Name(MemoryPositions value) {
  return value == MemoryPositions::kRotary ? "rotary" : "constant";
}

std::string_view Name(Score value) {
  switch (value) {
    case Score::kSre:
      return "sre";
    case Score::kValueNorm:
      return "value_norm";
    case Score::kRandom:
      return "random";
    case Score::kLeaveOneOut:
      return "leave_one_out";
    case Score::kRecency:
      return "recency";
    case Score::kRelativeSre:
      return "relative_sre";
    case Score::kRelativeLeaveOneOut:
      return "relative_leave_one_out";
    case Score::kHypothetical:
      return "hypothetical";
    case Score::kRelativeHypothetical:
      return "relative_hypothetical";
    case Score::kKeyNorm:
      return "key_norm";
    case Score::kAttention:
      return "attention";
  }
  return "unknown";
}

std::string_view Name(CacheSharing value) {
  switch (value) {
    case CacheSharing::kHead:
      return "head";
    case CacheSharing::kGroup:
      return "group";
    case CacheSharing::kGroupMax:
      return "group_max";
  }
  return "unknown";
}

absl::StatusOr<Mode> ParseMode(std::string_view text) {
  return Parse("mode", text, std::array{Mode::kLola, Mode::kSoftmax});
}

absl::StatusOr<Mixing> ParseMixing(std::string_view text) {
  return Parse("mixing", text,
               std::array{Mixing::kGatedNatural, Mixing::kNatural, Mixing::kLolcats});
}

absl::StatusOr<MemoryPositions> ParseMemoryPositions(std::string_view text) {
  return Parse("memory_positions", text,
               std::array{MemoryPositions::kRotary, MemoryPositions::kConstant});
}

absl::StatusOr<Score> ParseScore(std::string_view text) { return Parse("score", text, kScores); }

absl::StatusOr<CacheSharing> ParseCacheSharing(std::string_view text) {
  return Parse("cache_sharing", text,
               std::array{CacheSharing::kHead, CacheSharing::kGroup, CacheSharing::kGroupMax});
}

absl::StatusOr<Dtype> ParseCacheDtype(std::string_view text) {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat8}) {
    if (text == kernels::DtypeName(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "cache_dtype \"", ToAbsl(text), "\" is unknown; known: float32, bfloat16, float8"));
}

}  // namespace lola::memory
