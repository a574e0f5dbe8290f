#include "services/evaluate/score.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "kernels/core/check.h"
#include "memory/text.h"

namespace lola::evaluate {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// The digits of the first whole number, without leading zeros; empty when there is none.
std::string FirstInteger(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size() && !IsDigit(text[begin])) ++begin;
  size_t end = begin;
  while (end < text.size() && IsDigit(text[end])) ++end;
  while (begin + 1 < end && text[begin] == '0') ++begin;
  return std::string(text.substr(begin, end - begin));
}

bool Says(Scoring scoring, const std::string& answer, const std::string& reference) {
  switch (scoring) {
    case Scoring::kMatchAll:
      return absl::StrContains(absl::AsciiStrToLower(answer), absl::AsciiStrToLower(reference));
    case Scoring::kFirstInteger:
      return FirstInteger(answer) == reference;
    case Scoring::kBeginning:
      // A longer run of digits is another number.
      return answer.starts_with(reference) &&
             (answer.size() == reference.size() || !IsDigit(answer[reference.size()]));
  }
  return false;
}

}  // namespace

std::string_view Name(Scoring scoring) {
  switch (scoring) {
    case Scoring::kMatchAll:
      return "string_match_all";
    case Scoring::kFirstInteger:
      return "first_integer";
    case Scoring::kBeginning:
      return "beginning";
  }
  return "unknown";
}

std::string CleanAnswer(std::string_view answer) {
  std::string clean(absl::StripAsciiWhitespace(ToAbsl(answer)));
  for (char& c : clean) {
    if (static_cast<unsigned char>(c) < 0x20) c = '\n';
  }
  return std::string(absl::StripAsciiWhitespace(clean));
}

Verdict Judge(const Question& question, std::string_view answer) {
  LOLA_CHECK(!question.references.empty());
  const std::string clean = CleanAnswer(answer);
  Verdict verdict;
  size_t found = 0;
  for (const Reference& reference : question.references) {
    verdict.found.push_back(Says(question.scoring, clean, reference.text));
    found += verdict.found.back() ? 1 : 0;
  }
  verdict.score = static_cast<double>(found) / static_cast<double>(question.references.size());
  if (!question.older.empty()) {
    const bool older =
        std::any_of(question.older.begin(), question.older.end(),
                    [&](const std::string& value) { return Says(question.scoring, clean, value); });
    verdict.which = verdict.found[0] ? "newest" : older ? "older" : "other";
  }
  return verdict;
}

}  // namespace lola::evaluate
