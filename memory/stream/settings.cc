#include "memory/stream/settings.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "memory/text.h"

namespace lola::memory {
namespace {

using kernels::Dtype;

constexpr uint32_t kWindowMax = 1u << 20;
constexpr uint32_t kCachePairsMax = 1u << 16;
constexpr uint32_t kMemoryDistanceMax = 1u << 20;

template <typename... Parts>
absl::Status Refuse(std::string_view field, const Parts&... rest) {
  return absl::InvalidArgumentError(absl::StrCat(ToAbsl(field), " ", rest...));
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
  if (s.cache_dtype > Dtype::kFloat8) {
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
  if (s.score > Score::kAttention) {
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

// Sharing, sinks and the adaptive size of a sparse cache.
absl::Status ValidateSelection(const LolaSettings& s, const ModelGeometry& geometry) {
  if (s.cache_sharing > CacheSharing::kGroupMax) {
    return Refuse("cache_sharing", static_cast<int>(s.cache_sharing), " is unknown");
  }
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    if (s.sinks <= s.CachePairs(layer)) continue;
    return Refuse("sinks", s.sinks, " is above the ", s.CachePairs(layer), " cache_pairs of layer ",
                  layer);
  }
  if (!(s.adaptive_mass >= 0.0f && s.adaptive_mass <= 1.0f)) {
    return Refuse("adaptive_mass", s.adaptive_mass, " is outside 0 .. 1");
  }
  const auto most = s.cache_pairs_per_layer.empty()
                        ? s.cache_pairs
                        : *std::ranges::max_element(s.cache_pairs_per_layer);
  if (s.cache_pairs_min > most) {
    return Refuse("cache_pairs_min", s.cache_pairs_min, " is above cache_pairs ", most);
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
  if (mode == Mode::kSoftmax) return absl::OkStatus();
  if (absl::Status status = ValidateMemory(*this, geometry); !status.ok()) return status;
  return ValidateSelection(*this, geometry);
}

uint32_t LolaSettings::CachePairsMin(uint32_t layer) const {
  const uint32_t most = CachePairs(layer);
  return adaptive_mass > 0 ? std::min(most, std::max(cache_pairs_min, sinks)) : most;
}

bool LolaSettings::Extended() const {
  if (cache_dtype > Dtype::kBFloat16) return true;
  if (mode == Mode::kSoftmax) return false;
  return score > Score::kRecency || sinks > 0 || cache_sharing != CacheSharing::kHead ||
         adaptive_mass > 0;
}

std::string LolaSettings::ToString() const {
  std::string text = absl::StrCat("mode=", ToAbsl(Name(mode)), " window=", window);
  if (mode == Mode::kLola) {
    absl::StrAppend(&text, " chunk=", chunk, " cache_pairs=", cache_pairs);
    for (size_t i = 0; i < cache_pairs_per_layer.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? " cache_pairs_per_layer=" : ",", cache_pairs_per_layer[i]);
    }
    absl::StrAppend(&text, " mixing=", ToAbsl(Name(mixing)),
                    " memory_positions=", ToAbsl(Name(memory_positions)));
    if (memory_positions == MemoryPositions::kConstant) {
      absl::StrAppend(&text, " memory_distance=", memory_distance);
    }
    absl::StrAppend(&text, " mass_cap=", mass_cap, " redundancy_threshold=", redundancy_threshold,
                    " score=", ToAbsl(Name(score)), " rescore=", rescore ? "true" : "false",
                    " score_epsilon=", score_epsilon);
    if (sinks > 0) absl::StrAppend(&text, " sinks=", sinks);
    if (cache_sharing != CacheSharing::kHead) {
      absl::StrAppend(&text, " cache_sharing=", ToAbsl(Name(cache_sharing)));
    }
    if (adaptive_mass > 0) {
      absl::StrAppend(&text, " adaptive_mass=", adaptive_mass,
                      " cache_pairs_min=", cache_pairs_min);
    }
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
  // Later settings: a tag and a value each, and only when they are in use, so that settings without
  // them keep the bytes of the first release.
  enum Tag : uint32_t { kSinks = 1, kCacheSharing = 2, kAdaptiveMass = 3, kCachePairsMin = 4 };
  const auto append = [&](Tag tag, uint32_t value) {
    if (value == 0) return;
    out.U32(tag);
    out.U32(value);
  };
  append(kSinks, sinks);
  append(kCacheSharing, static_cast<uint32_t>(cache_sharing));
  if (adaptive_mass > 0) {
    append(kAdaptiveMass, std::bit_cast<uint32_t>(adaptive_mass));
    append(kCachePairsMin, cache_pairs_min);
  }
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
