#include "memory/snapshot/identity.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "memory/text.h"

namespace lola::memory {
namespace {

uint64_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

// Enumerations in words, floats as numbers, everything else as it is.
std::string Readable(const PrefaceField& field) {
  const auto name = [&](auto value) { return std::string(Name(value)); };
  const auto byte = static_cast<uint8_t>(field.value);
  if (field.name == "mode" && field.value <= 1) return name(static_cast<Mode>(byte));
  if (field.name == "mixing" && field.value <= 2) return name(static_cast<Mixing>(byte));
  if (field.name == "score" && field.value <= 10) return name(static_cast<Score>(byte));
  if (field.name == "memory_positions" && field.value <= 1) {
    return name(static_cast<MemoryPositions>(byte));
  }
  if (field.name == "cache_dtype" && field.value <= 2) {
    return kernels::DtypeName(static_cast<kernels::Dtype>(byte));
  }
  if (field.name == "cache_sharing" && field.value <= 2) {
    return name(static_cast<CacheSharing>(byte));
  }
  if (field.name == "redundancy_threshold" || field.name == "score_epsilon" ||
      field.name == "adaptive_mass") {
    return absl::StrCat(std::bit_cast<float>(static_cast<uint32_t>(field.value)));
  }
  return absl::StrCat(field.value);
}

bool Holds(const std::vector<PrefaceField>& fields, const std::string& name) {
  return std::ranges::any_of(fields, [&](const PrefaceField& f) { return f.name == name; });
}

}  // namespace

std::vector<PrefaceField> GeometryFields(const ModelGeometry& g) {
  return {{"layers", g.layers},     {"hidden", g.hidden},     {"query_heads", g.query_heads},
          {"kv_heads", g.kv_heads}, {"head_dim", g.head_dim}, {"feature_dim", g.feature_dim},
          {"ffn", g.ffn},           {"vocab", g.vocab}};
}

std::vector<PrefaceField> SettingsFields(const LolaSettings& s) {
  std::vector<PrefaceField> fields = {
      {"mode", static_cast<uint64_t>(s.mode)},
      {"window", s.window},
      {"chunk", s.chunk},
      {"cache_pairs", s.cache_pairs},
      {"mixing", static_cast<uint64_t>(s.mixing)},
      {"memory_positions", static_cast<uint64_t>(s.memory_positions)},
      {"memory_distance", s.memory_distance},
      {"mass_cap", s.mass_cap},
      {"redundancy_threshold", Bits(s.redundancy_threshold)},
      {"score", static_cast<uint64_t>(s.score)},
      {"rescore", s.rescore ? uint64_t{1} : uint64_t{0}},
      {"score_epsilon", Bits(s.score_epsilon)},
      {"cache_dtype", static_cast<uint64_t>(s.cache_dtype)}};
  for (size_t i = 0; i < s.cache_pairs_per_layer.size(); ++i) {
    fields.push_back({absl::StrCat("cache_pairs_per_layer[", i, "]"), s.cache_pairs_per_layer[i]});
  }
  // Later settings are written only when in use: version 1 of the format does not know them.
  const auto add = [&](const char* field, uint64_t value) {
    if (value != 0) fields.push_back({field, value});
  };
  add("sinks", s.sinks);
  add("cache_sharing", static_cast<uint64_t>(s.cache_sharing));
  if (s.adaptive_mass > 0) {
    add("adaptive_mass", Bits(s.adaptive_mass));
    add("cache_pairs_min", s.cache_pairs_min);
  }
  return fields;
}

absl::Status CompareFields(std::string_view what, const std::vector<PrefaceField>& blob,
                           const std::vector<PrefaceField>& expected) {
  const auto refuse = [&](const std::string& field, const std::string& has,
                          const std::string& want) {
    return absl::FailedPreconditionError(absl::StrCat("snapshot ", ToAbsl(what), ".", field,
                                                      ": blob has ", has, ", expected ", want));
  };
  for (size_t i = 0; i < std::max(blob.size(), expected.size()); ++i) {
    if (i >= blob.size()) return refuse(expected[i].name, "nothing", Readable(expected[i]));
    if (i >= expected.size()) return refuse(blob[i].name, Readable(blob[i]), "nothing");
    if (blob[i].name != expected[i].name && !Holds(expected, blob[i].name)) {
      return refuse(blob[i].name, Readable(blob[i]), "nothing");
    }
    if (blob[i].name != expected[i].name && !Holds(blob, expected[i].name)) {
      return refuse(expected[i].name, "nothing", Readable(expected[i]));
    }
    if (blob[i].name != expected[i].name) {
      return refuse(absl::StrCat("field ", i), blob[i].name, expected[i].name);
    }
    if (blob[i].value != expected[i].value) {
      return refuse(blob[i].name, Readable(blob[i]), Readable(expected[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace lola::memory
