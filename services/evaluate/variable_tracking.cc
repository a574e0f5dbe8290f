// RULER's variable tracking: one chain of four hops, one solved example in front.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/evaluate/ruler.h"

namespace lola::evaluate {
namespace {

constexpr uint32_t kHops = 4;
constexpr size_t kNameLetters = 5, kExampleLetters = 3;
constexpr uint32_t kMaxTokens = 30;
constexpr uint64_t kStep = 10;
// The example is as long as 500 tokens allow, in steps of 5 lines, and never shorter than 10 lines
// (with fewer lines than assignments there is no place for a chain).
constexpr uint64_t kExampleTokens = 500, kExampleStep = 5, kExampleLeast = 10;

constexpr char kInstruction[] =
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";

struct Chain {
  std::vector<std::string> names;
  uint64_t value = 0;

  std::string Assignment(size_t i) const {
    return i == 0 ? absl::StrCat("VAR ", names[0], " = ", value)
                  : absl::StrCat("VAR ", names[i], " = VAR ", names[i - 1], " ");
  }
};

std::vector<std::string> DrawNames(Random& random, size_t letters) {
  std::vector<std::string> names;
  while (names.size() < kHops + 1) {
    std::string name;
    for (size_t i = 0; i < letters; ++i) name += static_cast<char>('A' + random.Below(26));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

// "assgined" is RULER's spelling; models are compared on the same prompt.
Question AskFor(const Chain& chain) {
  Question question;
  question.text = absl::StrCat("Question: Find all variables that are assigned the value ",
                               chain.value, " in the text above.");
  question.answer_prefix =
      absl::StrCat(" Answer: According to the chain(s) of variable assignment in the text above, ",
                   kHops + 1, " variables are assgined the value ", chain.value, ", they are:");
  for (uint32_t i = 0; i <= kHops; ++i) question.references.push_back({chain.names[i], i});
  return question;
}

LinePrompt WithChain(const Chain& chain, std::vector<uint64_t> places, uint64_t lines) {
  LinePrompt out;
  out.lines = lines;
  out.line = [](uint64_t) { return absl::StrCat(kNoiseLine, "\n"); };
  out.separator = " ";
  std::sort(places.begin(), places.end());
  for (uint32_t i = 0; i <= kHops; ++i) {
    out.insertions.push_back({places[i], chain.Assignment(i), i});
  }
  out.tail = "\n";
  out.question = AskFor(chain);
  return out;
}

class VariableTrackingTask : public SizedTask {
 public:
  VariableTrackingTask(const RulerOptions& options, TokenCounter counter, Sizing sizing)
      : SizedTask(counter, sizing, options.seed, options.samples) {
    while (counter.Text(Example(0, example_lines_ + kExampleStep)) + kMaxTokens <= kExampleTokens) {
      example_lines_ += kExampleStep;
    }
  }

  using SizedTask::Size;
  std::string name() const override { return "variable_tracking"; }
  std::vector<std::pair<std::string, std::string>> Facts() const override {
    return {{"haystack_lines", absl::StrCat(haystack())},
            {"haystack_step", absl::StrCat(step())},
            {"haystack", "noise line"},
            {"example_lines", absl::StrCat(example_lines_)}};
  }

 protected:
  LinePrompt Compose(uint64_t index, uint64_t size) const override {
    Random random = Random::For(seed(), index);
    Chain chain{DrawNames(random, kNameLetters), random.Between(10'000, 99'998)};
    auto places = Places(random, size, kHops + 1, Depth(index));
    LinePrompt out = WithChain(chain, std::move(places), size);
    out.head = absl::StrCat(Example(index, example_lines_), "\n\n\n\n", kInstruction);
    out.question.max_tokens = static_cast<uint32_t>(generate());
    return out;
  }

 private:
  // Places and value are those of the run, the names those of the sample.
  std::string Example(uint64_t index, uint64_t lines) const {
    Random fixed = Random::For(seed(), 0xE8A), own = Random::For(seed(), index, 0xE8A);
    Chain chain{DrawNames(own, kExampleLetters), fixed.Between(10'000, 99'998)};
    LineScript script(WithChain(chain, fixed.Distinct(lines, kHops + 1), lines));
    std::string text = kInstruction;
    for (Step step = script.Next();; step = script.Next()) {
      text += step.text;
      if (step.kind != Step::Kind::kQuestion) continue;
      return absl::StrCat(text, step.question.text, step.question.answer_prefix, "  ",
                          absl::StrJoin(chain.names, " "));
    }
  }

  uint64_t example_lines_ = kExampleLeast;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Task>> MakeVariableTracking(const RulerOptions& options,
                                                           TokenCounter counter) {
  Sizing sizing;
  sizing.length = options.length;
  sizing.generate = options.max_tokens > 0 ? options.max_tokens : kMaxTokens;
  sizing.step = options.haystack_step > 0 ? options.haystack_step : kStep;
  sizing.least = kHops + 1;
  auto task = std::make_unique<VariableTrackingTask>(options, counter, sizing);
  const absl::Status sized = task->Size();
  if (!sized.ok()) return sized;
  return task;
}

}  // namespace lola::evaluate
