#include "services/evaluate/results_file.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/engine/mapped_file.h"
#include "services/evaluate/summary.h"
#include "services/evaluate/version.h"

namespace lola::evaluate {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kFileBytesMax = size_t{1} << 30;
constexpr uint64_t kFormatVersion = 1;

Json ToJson(const NamedValues& values) {
  Json object = Json::object();
  for (const auto& [name, value] : values) object[name] = value;
  return object;
}

Json ToJson(const std::map<uint64_t, BitCount>& counts) {
  Json list = Json::array();
  for (const auto& [key, count] : counts) {
    list.push_back(
        {{"at", key}, {"tokens", count.tokens}, {"bytes", count.bytes}, {"bits", count.bits}});
  }
  return list;
}

std::map<uint64_t, BitCount> CountsFrom(const Json& list) {
  std::map<uint64_t, BitCount> counts;
  for (const Json& item : list) {
    counts[item.at("at")] = {item.at("tokens"), item.at("bytes"), item.at("bits")};
  }
  return counts;
}

Json ToJson(const Answer& answer) {
  Json references = Json::array();
  for (size_t i = 0; i < answer.told.size(); ++i) {
    references.push_back({{"text", answer.question.references[i].text},
                          {"told_at", answer.told[i]},
                          {"found", static_cast<bool>(answer.verdict.found[i])}});
  }
  Json json = {{"question", answer.question.text + answer.question.answer_prefix},
               {"asked_at", answer.position},
               {"answer_at", answer.answer_at},
               {"output", answer.text},
               {"score", answer.verdict.score},
               {"references", references}};
  if (!answer.verdict.which.empty()) {
    json["older"] = answer.question.older;
    json["which"] = answer.verdict.which;
  }
  return json;
}

Answer AnswerFrom(const Json& json) {
  Answer answer;
  answer.question.text = json.at("question");
  answer.position = json.at("asked_at");
  answer.answer_at = json.at("answer_at");
  answer.text = json.at("output");
  answer.verdict.score = json.at("score");
  for (const Json& reference : json.at("references")) {
    answer.question.references.push_back({reference.at("text"), 0});
    answer.told.push_back(reference.at("told_at"));
    answer.verdict.found.push_back(reference.at("found"));
  }
  if (json.contains("which")) {
    answer.question.older = json.at("older").get<std::vector<std::string>>();
    answer.verdict.which = json.at("which");
  }
  return answer;
}

Json ToJson(const SampleResult& result) {
  Json json = {{"index", result.index}, {"tokens", result.tokens}};
  if (!result.answers.empty()) {
    json["answers"] = Json::array();
    for (const Answer& answer : result.answers) json["answers"].push_back(ToJson(answer));
  }
  if (!result.by_position.empty()) {
    json["bits_by_position"] = ToJson(result.by_position);
    json["bits_by_multiple"] = ToJson(result.by_multiple);
  }
  return json;
}

SampleResult SampleFrom(const Json& json) {
  SampleResult result;
  result.index = json.at("index");
  result.tokens = json.at("tokens");
  if (json.contains("answers")) {
    for (const Json& answer : json.at("answers")) result.answers.push_back(AnswerFrom(answer));
  }
  if (json.contains("bits_by_position")) {
    result.by_position = CountsFrom(json.at("bits_by_position"));
    result.by_multiple = CountsFrom(json.at("bits_by_multiple"));
  }
  return result;
}

Json Tallies(const std::map<uint64_t, Tally>& tallies) {
  Json list = Json::array();
  for (const auto& [key, tally] : tallies) {
    list.push_back({{"from", key}, {"asked", tally.asked}, {"right", tally.right}});
  }
  return list;
}

Json ToJson(const Summary& s) {
  Json json = {{"samples", s.samples}, {"questions", s.questions}};
  if (s.questions > 0) {
    json["score"] = s.score;
    json["wilson95"] = {s.low, s.high};
    json["references"] = s.references;
    json["found"] = s.found;
    json["by_depth"] = Json::array();
    for (const Tally& tally : s.by_depth) {
      json["by_depth"].push_back({{"asked", tally.asked}, {"right", tally.right}});
    }
    json["by_distance"] = Tallies(s.by_distance);
    json["by_position"] = Tallies(s.by_position);
  }
  if (!s.updates.empty()) json["updates"] = s.updates;
  if (!s.bits_by_position.empty()) {
    json["bits_by_position"] = ToJson(s.bits_by_position);
    json["bits_by_multiple"] = ToJson(s.bits_by_multiple);
  }
  return json;
}

// What must be equal for two runs to be one.
NamedValues Identity(const RunHeader& header) {
  NamedValues identity = header.arguments;
  identity.emplace_back("fingerprint", header.setup.fingerprint);
  identity.emplace_back("weight_dtype", header.setup.weight_dtype);
  for (const auto& [name, value] : header.setup.settings) {
    identity.emplace_back(absl::StrCat("settings.", name), value);
  }
  return identity;
}

}  // namespace

absl::Status ResultsFile::Read() {
  const absl::StatusOr<std::string> text = engine::ReadTextFile(path_, kFileBytesMax);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  if (!text.ok()) return text.status();
  const Json json = Json::parse(*text, nullptr, false);
  // Reads by name throw when something is missing; nothing of that leaves this function.
  try {
    if (json.is_discarded() || json.at("format_version") != kFormatVersion) {
      return absl::InvalidArgumentError(absl::StrCat("out: ", path_, " is no results file"));
    }
    for (const auto& [name, value] : Identity(header_)) {
      const std::string old = json.at("identity").value(name, "");
      if (old == value) continue;
      return absl::FailedPreconditionError(absl::StrCat("out: ", path_, " was made with ", name,
                                                        " = \"", old, "\", this run has \"", value,
                                                        "\"; give another file or remove it"));
    }
    for (const Json& sample : json.at("samples")) results_.push_back(SampleFrom(sample));
    tokens_ = json.at("run").at("tokens");
    seconds_ = json.at("run").at("seconds");
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("out: ", path_, " is no results file: ", error.what()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ResultsFile>> ResultsFile::Open(const std::string& path,
                                                               RunHeader header) {
  auto file = std::unique_ptr<ResultsFile>(new ResultsFile(path, std::move(header)));
  if (path.empty()) return file;
  absl::Status status = file->Read();
  // A file that cannot be written is found out before hours of work, not after.
  if (status.ok()) status = file->Save();
  if (!status.ok()) return status;
  return file;
}

bool ResultsFile::Has(uint64_t index) const {
  return std::any_of(results_.begin(), results_.end(),
                     [index](const SampleResult& result) { return result.index == index; });
}

void ResultsFile::Add(SampleResult result) {
  const auto at =
      std::lower_bound(results_.begin(), results_.end(), result.index,
                       [](const SampleResult& a, uint64_t index) { return a.index < index; });
  results_.insert(at, std::move(result));
}

void ResultsFile::AddEffort(uint64_t tokens, double seconds) {
  tokens_ += tokens;
  seconds_ += seconds;
}

std::string ResultsFile::Text() const {
  const RunSetup& setup = header_.setup;
  nlohmann::ordered_json json = {
      {"format_version", kFormatVersion},
      {"tool", absl::StrCat("lola eval ", BuildVersion())},
      {"engine", setup.engine},
      {"model", setup.model},
      {"instruction_class", setup.instruction_class},
      {"state_bytes", setup.state_bytes},
      {"identity", ToJson(Identity(header_))},
      {"facts", ToJson(header_.facts)},
      {"summary", ToJson(Summarise(results_))},
      {"run",
       {{"tokens", tokens_},
        {"seconds", seconds_},
        {"tokens_per_second", seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0.0}}},
      {"samples", nlohmann::ordered_json::array()}};
  for (const SampleResult& result : results_) json["samples"].push_back(ToJson(result));
  return json.dump(1) + "\n";
}

absl::Status ResultsFile::Save() const {
  if (path_.empty()) return absl::OkStatus();
  const std::string fresh = absl::StrCat(path_, ".new");
  {
    std::ofstream out(fresh, std::ios::binary | std::ios::trunc);
    out << Text();
    out.flush();
    if (!out) return absl::UnavailableError(absl::StrCat("out: ", fresh, " cannot be written"));
  }
  if (std::rename(fresh.c_str(), path_.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("out: ", path_, " cannot be replaced"));
  }
  return absl::OkStatus();
}

}  // namespace lola::evaluate
