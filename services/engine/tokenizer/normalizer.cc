#include "services/engine/tokenizer/normalizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lola::engine {

absl::StatusOr<Normalizer> Normalizer::Parse(const Json& root) {
  Normalizer normalizer;
  const auto value = root.find("normalizer");
  if (value == root.end() || value->is_null()) return normalizer;
  if (absl::Status status = normalizer.Add(*value, "normalizer"); !status.ok()) return status;
  return normalizer;
}

absl::Status Normalizer::Add(const Json& value, const std::string& field) {
  JsonReader reader(value, field + ".");
  const std::string type = reader.Text("type");
  if (!reader.status().ok()) return reader.status();
  if (type == "Sequence") {
    const Json* parts = reader.Find("normalizers");
    if (parts == nullptr || !parts->is_array()) {
      return absl::InvalidArgumentError(field + ".normalizers: missing or not an array");
    }
    for (size_t i = 0; i < parts->size(); ++i) {
      absl::Status status = Add((*parts)[i], absl::StrCat(field, ".normalizers[", i, "]"));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  Step step;
  if (type == "Prepend") {
    step.to = reader.Text("prepend");
    if (reader.status().ok() && step.to.empty()) return absl::OkStatus();
  } else if (type == "Replace") {
    const Json* pattern = reader.Object("pattern");
    const auto text = pattern == nullptr ? Json::const_iterator() : pattern->find("String");
    if (pattern == nullptr || text == pattern->end() || !text->is_string() || text->empty() ||
        text->get_ref<const std::string&>().empty()) {
      reader.Unsupported("pattern", pattern == nullptr ? Json() : *pattern,
                         "a String that is not empty");
    } else {
      step.from = text->get<std::string>();
    }
    step.to = reader.Text("content");
  } else {
    reader.Unsupported("type", type, "Sequence, Prepend, Replace");
  }
  if (!reader.status().ok()) return reader.status();
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

bool Normalizer::prepends() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& s) { return s.from.empty(); });
}

std::string Normalizer::Apply(std::string_view text, bool starts,
                              std::vector<size_t>* origins) const {
  std::string now(text);
  if (origins != nullptr) {
    origins->resize(now.size());
    for (size_t i = 0; i < now.size(); ++i) (*origins)[i] = i;
  }
  for (const Step& step : steps_) {
    std::string next;
    std::vector<size_t> from;
    const auto emit = [&](std::string_view part, size_t at, bool replaced) {
      next += part;
      if (origins == nullptr) return;
      for (size_t i = 0; i < part.size(); ++i) from.push_back((*origins)[replaced ? at : at + i]);
    };
    if (now.empty()) break;
    size_t done = 0;
    if (step.from.empty()) {
      if (starts) emit(step.to, 0, true);
    } else {
      for (size_t at; (at = now.find(step.from, done)) != std::string::npos;) {
        emit(std::string_view(now).substr(done, at - done), done, false);
        emit(step.to, at, true);
        done = at + step.from.size();
      }
    }
    emit(std::string_view(now).substr(done), done, false);
    now = std::move(next);
    if (origins != nullptr) *origins = std::move(from);
  }
  return now;
}

}  // namespace lola::engine
