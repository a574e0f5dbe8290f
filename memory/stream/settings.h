// What a stream remembers with: the model's shape and the LoLA settings, fixed at creation.
//
// Plain values; any thread. Validation names the field and the value it refuses. Semantics of every
// field: memory/stream/README.md.
#ifndef LOLA_MEMORY_STREAM_SETTINGS_H_
#define LOLA_MEMORY_STREAM_SETTINGS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/bf16.h"

namespace lola::memory {

// Rotary base and scaling belong to the model's config, not here.
struct ModelGeometry {
  uint32_t layers = 0;
  uint32_t hidden = 0;
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;     // divides query_heads
  uint32_t head_dim = 0;     // multiple of 16, at most 256
  uint32_t feature_dim = 0;  // F: both halves of the feature map; multiple of 32, at most 512;
                             // 0 = no feature maps, softmax mode only
  uint32_t ffn = 0;
  uint32_t vocab = 0;

  uint32_t group() const { return query_heads / kv_heads; }  // query heads per kv head
  uint32_t map_dim() const { return feature_dim / 2; }       // f: columns of one map

  // INVALID_ARGUMENT naming the field and value.
  absl::Status Validate() const;
  bool operator==(const ModelGeometry&) const = default;
};

enum class Mode : uint8_t { kLola = 0, kSoftmax = 1 };
enum class Mixing : uint8_t { kGatedNatural = 0, kNatural = 1, kLolcats = 2 };
enum class MemoryPositions : uint8_t { kRotary = 0, kConstant = 1 };
enum class Score : uint8_t {
  kSre = 0,  // self-recall error, the method
  // Controls for evaluation:
  kValueNorm = 1,    // ||v||^2
  kRandom = 2,       // hash of (position)
  kLeaveOneOut = 3,  // SRE against H, s with every other eligible pair added
  kRecency = 4,      // newest pairs win
  // Beyond the paper. The relative forms are divided by ||v||^2 + score_epsilon; relative SRE
  // against an empty state is 1.
  kRelativeSre = 5,
  kRelativeLeaveOneOut = 6,
  kHypothetical = 7,  // SRE against H, s with every eligible pair added, the pair itself too
  kRelativeHypothetical = 8,
  kKeyNorm = 9,     // ||k||^2
  kAttention = 10,  // attention weight received so far, summed over the head's queries
};

// Who owns a sparse cache: every query head, or the query heads of one kv head together. A shared
// cache ranks by the sum or by the largest of its heads' scores.
enum class CacheSharing : uint8_t { kHead = 0, kGroup = 1, kGroupMax = 2 };

// The words used on the wire, in config files and in messages.
std::string_view Name(Mode value);
std::string_view Name(Mixing value);
std::string_view Name(MemoryPositions value);
std::string_view Name(Score value);
std::string_view Name(CacheSharing value);
absl::StatusOr<Mode> ParseMode(std::string_view text);
absl::StatusOr<Mixing> ParseMixing(std::string_view text);
absl::StatusOr<MemoryPositions> ParseMemoryPositions(std::string_view text);
absl::StatusOr<Score> ParseScore(std::string_view text);
absl::StatusOr<CacheSharing> ParseCacheSharing(std::string_view text);
absl::StatusOr<kernels::Dtype> ParseCacheDtype(std::string_view text);

struct LolaSettings {
  Mode mode = Mode::kLola;
  std::string profile = "custom";  // where the values came from; carries no meaning
  uint32_t window = 64;            // eta, tokens; softmax mode: the most tokens a stream can hold
  uint32_t chunk = 64;             // C, tokens; divides window
  uint32_t cache_pairs = 128;      // lambda per layer and sparse cache; 0 = base model
  std::vector<uint32_t> cache_pairs_per_layer;  // empty = cache_pairs everywhere
  Mixing mixing = Mixing::kGatedNatural;
  MemoryPositions memory_positions = MemoryPositions::kConstant;
  uint32_t memory_distance = 128;     // D, for kConstant
  uint32_t mass_cap = 512;            // M; 0 = no cap
  float redundancy_threshold = 0.3f;  // 0 = plain score
  Score score = Score::kSre;
  bool rescore = true;  // false: a cached pair keeps the score it was admitted with
  float score_epsilon = 1e-6f;
  kernels::Dtype cache_dtype = kernels::Dtype::kFloat32;  // rows of window and sparse cache
  uint32_t sinks = 0;  // pairs at positions below this never leave the cache
  CacheSharing cache_sharing = CacheSharing::kHead;
  // p: an event keeps the fewest best pairs that hold this share of the scores' sum, at least
  // cache_pairs_min and at most cache_pairs; 0 = always cache_pairs.
  float adaptive_mass = 0.0f;
  uint32_t cache_pairs_min = 0;

  static LolaSettings PaperProfile();     // rotary, no cap, plain score
  static LolaSettings LifelongProfile();  // constant(128), M = 512, threshold 0.3
  static LolaSettings SoftmaxProfile(uint32_t window);

  uint32_t CachePairs(uint32_t layer) const {
    return cache_pairs_per_layer.empty() ? cache_pairs : cache_pairs_per_layer[layer];
  }
  // Fewest pairs a cache of this layer holds once it has overflowed.
  uint32_t CachePairsMin(uint32_t layer) const;
  // Any setting that the first release did not have.
  bool Extended() const;

  // INVALID_ARGUMENT naming the field and value. A valid pair fits every kernel and layout.
  absl::Status Validate(const ModelGeometry& geometry) const;

  // "mode=lola window=64 ..." in fixed order, for logs and messages.
  std::string ToString() const;

  // Fixed encoding of everything that changes what a stream computes (all fields but `profile`);
  // never changes meaning between releases.
  std::string CanonicalBytes() const;
  // XXH3-128 of CanonicalBytes().
  std::array<std::byte, 16> Fingerprint() const;

  // Equal in behaviour: `profile` is not compared.
  bool operator==(const LolaSettings& other) const;
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_SETTINGS_H_
