#include "memory/stream/settings.h"

#include <xxhash.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace lola::memory {
namespace {

using kernels::Dtype;

constexpr uint32_t kWindowMax = 1u << 20;
constexpr uint32_t kCachePairsMax = 1u << 16;
constexpr uint32_t kMemoryDistanceMax = 1u << 20;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

template <typename... Parts>
absl::Status Refuse(std::string_view field, const Parts&... rest) {
  return absl::InvalidArgumentError(absl::StrCat(View(field), " ", rest...));
}

template <typename Enum, size_t kCount>
absl::StatusOr<Enum> Parse(std::string_view field, std::string_view text,
                           const std::array<Enum, kCount>& values) {
  std::string known;
  for (const Enum value : values) {
    if (Name(value) == text) return value;
    absl::StrAppend(&known, known.empty() ? "" : ", ", View(Name(value)));
  }
  return Refuse(field, "\"", View(text), "\" is unknown; known: ", known);
}

// Little-endian fields, one after the other.
class Encoder {
 public:
  void U32(uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes_.push_back(static_cast<char>((value >> shift) & 0xff));
    }
  }
  void F32(float value) { U32(std::bit_cast<uint32_t>(value)); }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

absl::Status ValidateChunks(const LolaSettings& s) {
  if (s.window == 0 || s.window > kWindowMax) {
    return Refuse("window", s.window, " is outside 1 .. ", kWindowMax);
  }
  if (s.mode == Mode::kSoftmax) return absl::OkStatus();
  if (s.chunk == 0) return Refuse("chunk", s.chunk, " must be positive");
  if (s.window % s.chunk != 0) {
    return Refuse("chunk", s.chunk, " does not divide window ", s.window);
  }
  return absl::OkStatus();
}

absl::Status ValidateCache(const LolaSettings& s, const ModelGeometry& geometry) {
  if (!s.cache_pairs_per_layer.empty() && s.cache_pairs_per_layer.size() != geometry.layers) {
    return Refuse("cache_pairs_per_layer", "has ", s.cache_pairs_per_layer.size(),
                  " entries, the model has ", geometry.layers, " layers");
  }
  if (s.cache_pairs > kCachePairsMax) {
    return Refuse("cache_pairs", s.cache_pairs, " is above ", kCachePairsMax);
  }
  for (size_t i = 0; i < s.cache_pairs_per_layer.size(); ++i) {
    if (s.cache_pairs_per_layer[i] > kCachePairsMax) {
      return Refuse("cache_pairs_per_layer", "[", i, "] = ", s.cache_pairs_per_layer[i],
                    " is above ", kCachePairsMax);
    }
  }
  if (s.cache_dtype != Dtype::kFloat32 && s.cache_dtype != Dtype::kBFloat16) {
    return Refuse("cache_dtype", static_cast<int>(s.cache_dtype), " is unknown");
  }
  return absl::OkStatus();
}

absl::Status ValidateMemory(const LolaSettings& s, const ModelGeometry& geometry) {
  if (geometry.feature_dim == 0) {
    return Refuse("mode", "lola needs feature maps; the model's feature_dim is 0");
  }
  if (s.mixing > Mixing::kLolcats) {
    return Refuse("mixing", static_cast<int>(s.mixing), " is unknown");
  }
  if (s.memory_positions > MemoryPositions::kConstant) {
    return Refuse("memory_positions", static_cast<int>(s.memory_positions), " is unknown");
  }
  if (s.score > Score::kRecency) {
    return Refuse("score", static_cast<int>(s.score), " is unknown");
  }
  if (s.memory_distance > kMemoryDistanceMax) {
    return Refuse("memory_distance", s.memory_distance, " is above ", kMemoryDistanceMax);
  }
  const float t = s.redundancy_threshold;
  if (!(t == 0.0f || (t >= 0.01f && t <= 10.0f))) {
    return Refuse("redundancy_threshold", t, " is neither 0 nor in 0.01 .. 10");
  }
  if (!(s.score_epsilon > 0.0f && s.score_epsilon <= 1.0f)) {
    return Refuse("score_epsilon", s.score_epsilon, " is outside (0, 1]");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ModelGeometry::Validate() const {
  if (layers == 0 || layers > 1024) return Refuse("layers", layers, " is outside 1 .. 1024");
  if (hidden == 0) return Refuse("hidden", hidden, " must be positive");
  if (query_heads == 0 || query_heads > 1024) {
    return Refuse("query_heads", query_heads, " is outside 1 .. 1024");
  }
  if (kv_heads == 0 || query_heads % kv_heads != 0) {
    return Refuse("kv_heads", kv_heads, " does not divide query_heads ", query_heads);
  }
  if (head_dim == 0 || head_dim % 16 != 0 || head_dim > 256) {
    return Refuse("head_dim", head_dim, " is not a multiple of 16 up to 256");
  }
  if (feature_dim % 32 != 0 || feature_dim > 512) {
    return Refuse("feature_dim", feature_dim, " is not a multiple of 32 up to 512");
  }
  if (ffn == 0) return Refuse("ffn", ffn, " must be positive");
  if (vocab == 0) return Refuse("vocab", vocab, " must be positive");
  return absl::OkStatus();
}

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

absl::StatusOr<Score> ParseScore(std::string_view text) {
  return Parse("score", text,
               std::array{Score::kSre, Score::kValueNorm, Score::kRandom, Score::kLeaveOneOut,
                          Score::kRecency});
}

absl::StatusOr<Dtype> ParseCacheDtype(std::string_view text) {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16}) {
    if (text == kernels::DtypeName(dtype)) return dtype;
  }
  return Refuse("cache_dtype", "\"", View(text), "\" is unknown; known: float32, bfloat16");
}

LolaSettings LolaSettings::PaperProfile() {
  LolaSettings settings;
  settings.profile = "paper";
  settings.memory_positions = MemoryPositions::kRotary;
  settings.mass_cap = 0;
  settings.redundancy_threshold = 0;
  return settings;
}

LolaSettings LolaSettings::LifelongProfile() {
  LolaSettings settings;
  settings.profile = "lifelong";
  return settings;
}

LolaSettings LolaSettings::SoftmaxProfile(uint32_t window) {
  LolaSettings settings;
  settings.mode = Mode::kSoftmax;
  settings.window = window;
  settings.chunk = window;
  settings.cache_pairs = 0;
  settings.memory_positions = MemoryPositions::kRotary;
  settings.mass_cap = 0;
  settings.redundancy_threshold = 0;
  return settings;
}

absl::Status LolaSettings::Validate(const ModelGeometry& geometry) const {
  if (absl::Status status = geometry.Validate(); !status.ok()) return status;
  if (mode > Mode::kSoftmax) return Refuse("mode", static_cast<int>(mode), " is unknown");
  if (absl::Status status = ValidateChunks(*this); !status.ok()) return status;
  if (absl::Status status = ValidateCache(*this, geometry); !status.ok()) return status;
  return mode == Mode::kSoftmax ? absl::OkStatus() : ValidateMemory(*this, geometry);
}

std::string LolaSettings::ToString() const {
  std::string text = absl::StrCat("mode=", View(Name(mode)), " window=", window);
  if (mode == Mode::kLola) {
    absl::StrAppend(&text, " chunk=", chunk, " cache_pairs=", cache_pairs);
    for (size_t i = 0; i < cache_pairs_per_layer.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? " cache_pairs_per_layer=" : ",", cache_pairs_per_layer[i]);
    }
    absl::StrAppend(&text, " mixing=", View(Name(mixing)),
                    " memory_positions=", View(Name(memory_positions)));
    if (memory_positions == MemoryPositions::kConstant) {
      absl::StrAppend(&text, " memory_distance=", memory_distance);
    }
    absl::StrAppend(&text, " mass_cap=", mass_cap, " redundancy_threshold=", redundancy_threshold,
                    " score=", View(Name(score)), " rescore=", rescore ? "true" : "false",
                    " score_epsilon=", score_epsilon);
  }
  absl::StrAppend(&text, " cache_dtype=", kernels::DtypeName(cache_dtype));
  return text;
}

std::string LolaSettings::CanonicalBytes() const {
  Encoder out;
  out.U32(1);  // version of this encoding
  out.U32(static_cast<uint32_t>(mode));
  out.U32(window);
  out.U32(static_cast<uint32_t>(cache_dtype));
  if (mode == Mode::kSoftmax) return out.Take();  // nothing else has a meaning
  out.U32(chunk);
  out.U32(cache_pairs);
  out.U32(static_cast<uint32_t>(cache_pairs_per_layer.size()));
  for (const uint32_t pairs : cache_pairs_per_layer) out.U32(pairs);
  out.U32(static_cast<uint32_t>(mixing));
  out.U32(static_cast<uint32_t>(memory_positions));
  out.U32(memory_positions == MemoryPositions::kConstant ? memory_distance : 0);
  out.U32(mass_cap);
  out.F32(redundancy_threshold);
  out.U32(static_cast<uint32_t>(score));
  out.U32(rescore ? 1 : 0);
  out.F32(score_epsilon);
  return out.Take();
}

std::array<std::byte, 16> LolaSettings::Fingerprint() const {
  const std::string bytes = CanonicalBytes();
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  std::array<std::byte, 16> result;
  std::memcpy(result.data(), canonical.digest, result.size());
  return result;
}

bool LolaSettings::operator==(const LolaSettings& other) const {
  return CanonicalBytes() == other.CanonicalBytes();
}

}  // namespace lola::memory
