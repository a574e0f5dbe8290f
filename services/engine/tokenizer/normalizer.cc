#include "services/engine/tokenizer/normalizer.h"

#include <algorithm>
#include <numeric>
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
  } else if ((step.form = ParseUnicodeForm(type)).has_value()) {
    // Nothing more to read.
  } else {
    reader.Unsupported("type", type, "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD");
  }
  if (!reader.status().ok()) return reader.status();
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

bool Normalizer::prepends() const {
  return std::any_of(steps_.begin(), steps_.end(),
                     [](const Step& s) { return !s.form && s.from.empty(); });
}

std::string Normalizer::Replaced(const Step& step, std::string_view text, bool starts,
                                 Traced* traced) {
  std::string next;
  std::vector<size_t> from;
  const auto emit = [&](std::string_view part, size_t at, bool replaced) {
    next += part;
    if (traced == nullptr) return;
    for (size_t i = 0; i < part.size(); ++i) {
      from.push_back(traced->origins[replaced ? at : at + i]);
    }
  };
  size_t done = 0;
  if (step.from.empty()) {
    if (starts) emit(step.to, 0, true);
  } else {
    for (size_t at; (at = text.find(step.from, done)) != std::string_view::npos;) {
      emit(text.substr(done, at - done), done, false);
      emit(step.to, at, true);
      done = at + step.from.size();
    }
  }
  emit(text.substr(done), done, false);
  if (traced != nullptr) traced->origins = std::move(from);
  return next;
}

std::string Normalizer::Formed(UnicodeForm form, std::string_view text, Traced* traced) {
  std::string next;
  if (traced == nullptr) {
    NormalizeUnicode(form, text,
                     [&](std::string_view part, size_t, size_t, bool) { next += part; });
    return next;
  }
  std::vector<size_t> from;
  auto cut = traced->cuts->begin();
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    while (cut != traced->cuts->end() && *cut <= traced->origins[begin]) ++cut;
    const auto first = traced->origins.begin();
    end = cut == traced->cuts->end()
              ? text.size()
              : static_cast<size_t>(std::lower_bound(first, traced->origins.end(), *cut) - first);
    const auto emit = [&](std::string_view part, size_t at, size_t, bool same) {
      next += part;
      for (size_t i = 0; i < part.size(); ++i) {
        from.push_back(traced->origins[begin + at + (same ? i : 0)]);
      }
    };
    NormalizeUnicode(form, text.substr(begin, end - begin), emit);
  }
  traced->origins = std::move(from);
  return next;
}

std::string Normalizer::Made(std::string_view text, bool starts, Traced* traced) const {
  std::string now(text);
  for (const Step& step : steps_) {
    if (now.empty()) break;
    now = step.form ? Formed(*step.form, now, traced) : Replaced(step, now, starts, traced);
  }
  return now;
}

std::string Normalizer::Apply(std::string_view text, bool starts, const std::vector<size_t>& cuts,
                              std::vector<size_t>* origins) const {
  Traced traced;
  traced.cuts = &cuts;
  traced.origins.resize(text.size());
  std::iota(traced.origins.begin(), traced.origins.end(), size_t{0});
  std::string made = Made(text, starts, &traced);
  *origins = std::move(traced.origins);
  return made;
}

}  // namespace lola::engine
