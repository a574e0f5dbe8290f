#include "services/engine/tokenizer/sequence_prefix.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "services/engine/tokenizer/characters.h"

namespace lola::engine {
namespace {

absl::Status ReadTemplate(JsonReader& reader, std::vector<int32_t>* prefix) {
  const Json* single = reader.Find("single");
  const Json* tokens = reader.Object("special_tokens");
  if (single == nullptr || !single->is_array()) {
    return absl::InvalidArgumentError(reader.prefix() + "single: missing or not an array");
  }
  for (size_t i = 0; i < single->size(); ++i) {
    const Json& part = (*single)[i];
    if (part.is_object() && part.contains("Sequence")) return absl::OkStatus();
    const std::string field = absl::StrCat(reader.prefix(), "single[", i, "]");
    const Json special = part.is_object() ? part.value("SpecialToken", Json()) : Json();
    if (!special.is_object() || tokens == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": ", ShowJson(part), ", must be a SpecialToken or a Sequence"));
    }
    JsonReader name(special, field + ".SpecialToken.");
    const std::string id = name.Text("id");
    if (!name.status().ok()) return name.status();
    const Json entry = tokens->value(id, Json());
    const Json ids = entry.is_object() ? entry.value("ids", Json()) : Json();
    if (!ids.is_array()) {
      return absl::InvalidArgumentError(
          absl::StrCat(reader.prefix(), "special_tokens: no ids for \"", id, "\""));
    }
    for (const Json& one : ids) {
      if (!one.is_number_unsigned() || one.get<uint64_t>() > kTokenIdMax) {
        return absl::InvalidArgumentError(absl::StrCat(reader.prefix(), "special_tokens.", id,
                                                       ".ids: ", ShowJson(ids), ", must be ids"));
      }
      prefix->push_back(one.get<int32_t>());
    }
  }
  return absl::OkStatus();
}

absl::Status ReadProcessor(const Json& value, const std::string& field,
                           std::vector<int32_t>* prefix) {
  JsonReader reader(value, field + ".");
  const std::string type = reader.Text("type");
  if (!reader.status().ok()) return reader.status();
  if (type == "ByteLevel") return absl::OkStatus();
  if (type == "TemplateProcessing") return ReadTemplate(reader, prefix);
  if (type == "Sequence") {
    const Json* parts = reader.Find("processors");
    if (parts == nullptr || !parts->is_array()) {
      return absl::InvalidArgumentError(field + ".processors: missing or not an array");
    }
    for (size_t i = 0; i < parts->size(); ++i) {
      absl::Status status =
          ReadProcessor((*parts)[i], absl::StrCat(field, ".processors[", i, "]"), prefix);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  reader.Unsupported("type", type, "ByteLevel, TemplateProcessing, Sequence");
  return reader.status();
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ReadSequencePrefix(const Json& root) {
  std::vector<int32_t> prefix;
  const auto value = root.find("post_processor");
  if (value == root.end() || value->is_null()) return prefix;
  absl::Status status = ReadProcessor(*value, "post_processor", &prefix);
  if (!status.ok()) return status;
  return prefix;
}

absl::StatusOr<std::optional<std::vector<int32_t>>> ReadConfiguredPrefix(
    const Json& config, const Tokenizer& tokenizer) {
  JsonReader reader(config, "");
  if (reader.Find("add_bos_token") == nullptr) return std::nullopt;
  const bool adds = reader.Bool("add_bos_token", false);
  if (!reader.status().ok()) return reader.status();
  if (!adds) return std::vector<int32_t>();
  const Json* bos = reader.Find("bos_token");
  // A string, or an object that holds it.
  const Json name = bos == nullptr     ? Json()
                    : bos->is_object() ? bos->value("content", Json())
                                       : *bos;
  const auto id =
      name.is_string() ? tokenizer.SpecialId(name.get<std::string>()) : std::optional<int32_t>();
  if (!id) {
    return absl::InvalidArgumentError(absl::StrCat("bos_token: ", ShowJson(name),
                                                   " is no special token of the tokenizer, but "
                                                   "add_bos_token is true"));
  }
  return std::vector<int32_t>{*id};
}

}  // namespace lola::engine
