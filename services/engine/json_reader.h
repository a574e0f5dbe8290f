// Typed fields of a JSON object. The first wrong field is remembered with its full name and value;
// later calls answer defaults, so that a reader of many fields checks one status at the end.
// Not thread-safe. Include in .cc files only: the JSON header is large.
#ifndef LOLA_SERVICES_ENGINE_JSON_READER_H_
#define LOLA_SERVICES_ENGINE_JSON_READER_H_

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lola::engine {

using Json = nlohmann::json;

// Levels of brackets in a text that is read: copying, comparing and printing a value go as deep
// into the stack as it is nested, and files are not ours.
inline constexpr size_t kJsonDepthMax = 128;

// The object a text spells. INVALID_ARGUMENT ("not a JSON object", "nested deeper than ...").
absl::StatusOr<Json> ParseJsonObject(std::string_view text);

class JsonReader {
 public:
  // `object` outlives the reader; `prefix` ("lola.") stands before field names in messages.
  JsonReader(const Json& object, std::string prefix);

  // A missing (or null) field is an error when `fallback` is empty.
  uint64_t Unsigned(const char* name, uint64_t low, uint64_t high,
                    std::optional<uint64_t> fallback = std::nullopt);
  double Number(const char* name, double low, double high,
                std::optional<double> fallback = std::nullopt);
  bool Bool(const char* name, std::optional<bool> fallback = std::nullopt);
  std::string Text(const char* name, std::optional<std::string> fallback = std::nullopt);
  std::vector<std::string> Texts(const char* name, size_t least);
  // Null when the field is missing or null; an error when it is not an object.
  const Json* Object(const char* name);
  // Any value; null when missing.
  const Json* Find(const char* name);

  // Remembers an error about a field.
  void Refuse(const char* name, const Json& value, std::string_view must);
  void Unsupported(const char* name, const Json& value, std::string_view known);
  void Fail(absl::Status status);
  // An error for every field that was never asked for.
  void RefuseUnknown();

  const absl::Status& status() const { return status_; }
  const std::string& prefix() const { return prefix_; }

 private:
  const Json* Need(const char* name, bool may_miss);

  const Json& object_;
  const std::string prefix_;
  std::set<std::string, std::less<>> asked_;
  absl::Status status_;
};

// One line of JSON for messages, shortened.
std::string ShowJson(const Json& value);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_JSON_READER_H_
