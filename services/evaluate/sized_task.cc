#include "services/evaluate/sized_task.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace lola::evaluate {

uint64_t TokenCounter::Text(std::string_view text, bool begins) const {
  engine::EncodeOptions options;
  options.starts_text = begins;
  const auto ids = tokenizer_->Encode(text, options);
  LOLA_CHECK(ids.ok()) << ids.status();
  return ids->size();
}

uint64_t TokenCounter::Prompt(Script& script) const {
  uint64_t tokens = bos_ ? 1 : 0;
  for (bool begins = true;; begins = false) {
    const Step step = script.Next();
    if (step.kind == Step::Kind::kText) tokens += Text(step.text, begins);
    if (step.kind == Step::Kind::kQuestion) return tokens + Text(step.question.text);
    if (step.kind == Step::Kind::kEnd) return tokens;
  }
}

uint64_t SizedTask::TokensWithAnswers(uint64_t size) const {
  LinePrompt prompt = Compose(kSizingSample, size);
  std::string answers;
  for (const Reference& reference : prompt.question.references) {
    if (!answers.empty()) answers += ' ';
    answers += reference.text;
  }
  LineScript script(std::move(prompt));
  return counter_.Prompt(script) + counter_.Text(answers) + sizing_.generate;
}

absl::Status SizedTask::Size() {
  const Sizing& s = sizing_;
  const auto fits = [&](uint64_t steps) {
    return TokensWithAnswers(std::min(s.most, steps * s.step)) <= s.length;
  };
  const uint64_t least = (s.least + s.step - 1) / s.step;
  if (!fits(least)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "length: ", s.length, " tokens are too few for ", name(), ": with its smallest haystack (",
        least * s.step, ") it takes ", TokensWithAnswers(least * s.step), ", of which ", s.generate,
        " are generated"));
  }
  // Gallop, then halve. Tokens grow with the haystack.
  const uint64_t last = s.most == UINT64_MAX ? UINT64_MAX : s.most / s.step + 1;
  uint64_t good = least, bad = least + 1;
  while (bad < last && fits(bad)) {
    good = bad;
    bad = std::min(last, good + 2 * (good - least + 1));
  }
  if (bad >= last && fits(last)) {
    return absl::InvalidArgumentError(absl::StrCat("haystack: ", s.most, " words are too few for ",
                                                   s.length, " tokens; the file may be used ",
                                                   "over and over with --repeat-haystack"));
  }
  while (bad - good > 1) {
    const uint64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  haystack_ = good * s.step;
  return absl::OkStatus();
}

std::unique_ptr<Script> SizedTask::Open(uint64_t index) const {
  LOLA_CHECK_LT(index, samples());
  uint64_t size = haystack_;
  for (; size >= sizing_.least + sizing_.step; size -= sizing_.step) {
    LineScript script(Compose(index, size));
    if (counter_.Prompt(script) + sizing_.generate <= sizing_.length) break;
  }
  return std::make_unique<LineScript>(Compose(index, size));
}

std::vector<uint64_t> Places(Random& random, uint64_t bound, uint64_t count, double depth) {
  const uint64_t first = std::min(bound - 1, static_cast<uint64_t>(depth * bound));
  std::vector<uint64_t> places = {first};
  for (const uint64_t place : random.Distinct(bound - 1, count - 1)) {
    places.push_back(place < first ? place : place + 1);
  }
  return places;
}

}  // namespace lola::evaluate
