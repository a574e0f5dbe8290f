#include "services/evaluate/results_json.h"

#include <map>

namespace lola::evaluate {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const std::map<uint64_t, BitCount>& counts) {
  Json list = Json::array();
  for (const auto& [key, count] : counts) {
    list.push_back({{"at", key},
                    {"tokens", count.tokens},
                    {"bytes", count.bytes},
                    {"bits", count.bits},
                    {"squares", count.squares}});
  }
  return list;
}

std::map<uint64_t, BitCount> CountsFrom(const Json& list) {
  std::map<uint64_t, BitCount> counts;
  for (const Json& item : list) {
    // Files of earlier builds have no squares.
    counts[item.at("at")] = {item.at("tokens"), item.at("bytes"), item.at("bits"),
                             item.value("squares", 0.0)};
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

Json Tallies(const std::map<uint64_t, Tally>& tallies) {
  Json list = Json::array();
  for (const auto& [key, tally] : tallies) {
    list.push_back({{"from", key}, {"asked", tally.asked}, {"right", tally.right}});
  }
  return list;
}

}  // namespace

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

}  // namespace lola::evaluate
