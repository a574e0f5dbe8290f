// The pass key as landmark attention asked for it.
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/evaluate/ruler.h"

namespace lola::evaluate {
namespace {

constexpr uint32_t kMaxTokens = 16;  // room for a blank, five digits and more in any vocabulary
constexpr uint64_t kKeyMost = 50'000;

class LandmarkPasskeyTask : public SizedTask {
 public:
  LandmarkPasskeyTask(const RulerOptions& options, TokenCounter counter, Sizing sizing)
      : SizedTask(counter, sizing, options.seed, options.samples) {}

  using SizedTask::Size;
  std::string name() const override { return "passkey"; }
  std::vector<std::pair<std::string, std::string>> Facts() const override {
    return {{"haystack_lines", absl::StrCat(haystack())},
            {"haystack_step", absl::StrCat(step())},
            {"haystack", "noise line"}};
  }

 protected:
  LinePrompt Compose(uint64_t index, uint64_t size) const override {
    Random random = Random::For(seed(), index);
    const std::string key = absl::StrCat(random.Between(1, kKeyMost));
    LinePrompt out;
    out.head =
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "
        "them. I will quiz you about the important information there.\n";
    out.lines = size;
    out.line = [](uint64_t) { return std::string(kNoiseLine); };
    out.separator = "\n";
    const uint64_t place = static_cast<uint64_t>(Depth(index) * static_cast<double>(size + 1));
    out.insertions.push_back(
        {place, absl::StrCat("The pass key is ", key, ". Remember it. ", key, " is the pass key."),
         0});
    out.tail = "\n";
    out.question.text = "What is the pass key?";
    out.question.answer_prefix = " The pass key is";
    out.question.max_tokens = static_cast<uint32_t>(generate());
    out.question.scoring = Scoring::kFirstInteger;
    out.question.references.push_back({key, 0});
    return out;
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Task>> MakeLandmarkPasskey(const RulerOptions& options,
                                                          TokenCounter counter) {
  Sizing sizing;
  sizing.length = options.length;
  sizing.generate = options.max_tokens > 0 ? options.max_tokens : kMaxTokens;
  sizing.step = options.haystack_step > 0 ? options.haystack_step : 1;
  auto task = std::make_unique<LandmarkPasskeyTask>(options, counter, sizing);
  const absl::Status sized = task->Size();
  if (!sized.ok()) return sized;
  return task;
}

}  // namespace lola::evaluate
