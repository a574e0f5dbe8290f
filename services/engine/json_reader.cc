#include "services/engine/json_reader.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/text.h"

namespace lola::engine {
namespace {

constexpr size_t kShownBytesMax = 120;

// The byte at which `text` opens one bracket too many; its size when it never does. Brackets in
// strings do not count. Any text: it need not be JSON.
size_t FirstTooDeep(std::string_view text) {
  size_t depth = 0;
  bool quoted = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted && c == '\\') {
      ++at;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && (c == '[' || c == '{')) {
      if (++depth > kJsonDepthMax) return at;
    } else if (!quoted && (c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return text.size();
}

}  // namespace

absl::StatusOr<Json> ParseJsonObject(std::string_view text) {
  if (const size_t at = FirstTooDeep(text); at < text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("nested deeper than ", kJsonDepthMax, " levels at byte ", at));
  }
  Json value = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!value.is_object()) return absl::InvalidArgumentError("not a JSON object");
  return value;
}

std::string ShowJson(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kShownBytesMax) text = text.substr(0, kShownBytesMax) + "...";
  return text;
}

JsonReader::JsonReader(const Json& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {
  if (!object.is_object()) {
    Fail(absl::InvalidArgumentError(absl::StrCat(prefix_, ": not an object")));
  }
}

const Json* JsonReader::Find(const char* name) {
  asked_.insert(name);
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

const Json* JsonReader::Need(const char* name, bool may_miss) {
  const Json* value = Find(name);
  if (value == nullptr && !may_miss) {
    Fail(absl::InvalidArgumentError(absl::StrCat(prefix_, name, ": missing")));
  }
  return value;
}

uint64_t JsonReader::Unsigned(const char* name, uint64_t low, uint64_t high,
                              std::optional<uint64_t> fallback) {
  const Json* value = Need(name, fallback.has_value());
  if (value == nullptr) return fallback.value_or(low);
  if (!value->is_number_unsigned() || value->get<uint64_t>() < low ||
      value->get<uint64_t>() > high) {
    Refuse(name, *value, absl::StrCat("a whole number from ", low, " to ", high));
    return low;
  }
  return value->get<uint64_t>();
}

double JsonReader::Number(const char* name, double low, double high,
                          std::optional<double> fallback) {
  const Json* value = Need(name, fallback.has_value());
  if (value == nullptr) return fallback.value_or(low);
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= low && number <= high)) {
    Refuse(name, *value, absl::StrCat("a number from ", low, " to ", high));
    return low;
  }
  return number;
}

bool JsonReader::Bool(const char* name, std::optional<bool> fallback) {
  const Json* value = Need(name, fallback.has_value());
  if (value == nullptr) return fallback.value_or(false);
  if (!value->is_boolean()) {
    Refuse(name, *value, "true or false");
    return false;
  }
  return value->get<bool>();
}

std::string JsonReader::Text(const char* name, std::optional<std::string> fallback) {
  const Json* value = Need(name, fallback.has_value());
  if (value == nullptr) return fallback.value_or("");
  if (!value->is_string()) {
    Refuse(name, *value, "a string");
    return {};
  }
  return value->get<std::string>();
}

std::vector<std::string> JsonReader::Texts(const char* name, size_t least) {
  const Json* value = Need(name, false);
  if (value == nullptr) return {};
  std::vector<std::string> texts;
  bool good = value->is_array() && value->size() >= least;
  for (size_t i = 0; good && i < value->size(); ++i) {
    good = (*value)[i].is_string();
    if (good) texts.push_back((*value)[i].get<std::string>());
  }
  if (!good) Refuse(name, *value, absl::StrCat("an array of at least ", least, " strings"));
  return good ? texts : std::vector<std::string>();
}

const Json* JsonReader::Object(const char* name) {
  const Json* value = Find(name);
  if (value != nullptr && !value->is_object()) {
    Refuse(name, *value, "an object");
    return nullptr;
  }
  return value;
}

void JsonReader::Refuse(const char* name, const Json& value, std::string_view must) {
  Fail(absl::InvalidArgumentError(
      absl::StrCat(prefix_, name, ": ", ShowJson(value), ", must be ", ToAbsl(must))));
}

void JsonReader::Unsupported(const char* name, const Json& value, std::string_view known) {
  Fail(absl::UnimplementedError(
      absl::StrCat(prefix_, name, ": ", ShowJson(value), " (known: ", ToAbsl(known), ")")));
}

void JsonReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void JsonReader::RefuseUnknown() {
  if (!object_.is_object()) return;
  for (const auto& [name, value] : object_.items()) {
    if (asked_.find(name) == asked_.end()) {
      Fail(absl::InvalidArgumentError(absl::StrCat(prefix_, name, ": unknown field")));
    }
  }
}

}  // namespace lola::engine
