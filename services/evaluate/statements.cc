#include "services/evaluate/statements.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/evaluate/line_script.h"

namespace lola::evaluate {
namespace {

constexpr uint32_t kNeedlesMax = 64;
constexpr size_t kProbeBytes = 64 << 10;

bool SingleBytes(const TokenCounter& counter) { return counter.tokenizer().kind() == "byte-level"; }

class StatementsScript : public Script {
 public:
  StatementsScript(Document document, const PasskeyText& text, const TokenCounter& counter)
      : document_(std::move(document)), text_(text), counter_(counter) {}

  Step Next() override {
    while (at_ < document_.text.size() && pending_.size() < kPieceBytes) Take();
    if (pending_.find_last_not_of(' ') != std::string::npos) return TakePiece(pending_, marks_);
    Step step;
    if (asked_ == document_.needles.size()) return step;
    const Needle& needle = document_.needles[asked_];
    step.kind = Step::Kind::kQuestion;
    step.question = AskStatement(text_, needle.name, counter_);
    step.question.text.insert(0, pending_);  // the blank before it belongs to every question
    step.question.references.push_back({needle.digits, static_cast<uint32_t>(asked_)});
    ++asked_;
    return step;
  }

 private:
  // Up to the end of the next statement, or of a piece.
  void Take() {
    size_t end = std::min(document_.text.size(), at_ + kPieceBytes);
    const bool marked = marked_ < document_.needles.size();
    const size_t told =
        marked ? document_.needles[marked_].offset + text_.statement_bytes() : SIZE_MAX;
    end = std::min(end, told);
    // Not inside a word: pieces end behind a blank, or at the end of all.
    if (end != told && end < document_.text.size()) {
      const size_t blank = document_.text.rfind(' ', end - 1);
      if (blank != std::string::npos && blank >= at_) end = blank + 1;
      while ((document_.text[end] & 0xC0) == 0x80) ++end;  // whole characters
    }
    pending_.append(document_.text, at_, end - at_);
    at_ = end;
    if (end == told) marks_.push_back({static_cast<uint32_t>(marked_++), pending_.size()});
  }

  const Document document_;
  const PasskeyText& text_;
  const TokenCounter& counter_;
  size_t at_ = 0, marked_ = 0, asked_ = 0;
  std::string pending_;
  std::vector<Mark> marks_;
};

class StatementsTask : public Task {
 public:
  StatementsTask(const StatementsOptions& options, TokenCounter counter, uint64_t bytes,
                 uint64_t margin)
      : options_(options), counter_(counter), bytes_(bytes), margin_(margin) {
    questions_ = options.questions > 0 ? options.questions : options.samples * options.needles;
    SpreadDepths();
  }

  std::string name() const override { return "statements"; }
  uint64_t samples() const override {
    return (questions_ + options_.needles - 1) / options_.needles;
  }
  uint64_t tokens_per_sample() const override {
    return options_.length + 64 + options_.text->digits_length;
  }
  std::vector<std::pair<std::string, std::string>> Facts() const override {
    return {{"document_bytes", absl::StrCat(bytes_)},
            {"min_distance_bytes", absl::StrCat(margin_ + options_.text->question_bytes())}};
  }
  std::unique_ptr<Script> Open(uint64_t index) const override {
    const uint64_t first = index * options_.needles;
    const uint64_t count = std::min<uint64_t>(options_.needles, questions_ - first);
    PasskeyWriter writer(*options_.text, options_.seed + 0x1000'0000'01ull * index);
    std::vector<double> depths(depths_.begin() + first, depths_.begin() + first + count);
    return std::make_unique<StatementsScript>(
        writer.Write(bytes_, std::move(depths), margin_, options_.number_share), *options_.text,
        counter_);
  }

 private:
  // Even depths in random order; documents take them in turn.
  void SpreadDepths() {
    PasskeyWriter random(*options_.text, options_.seed ^ 0xD1CEull);
    depths_.resize(questions_);
    for (size_t i = 0; i < depths_.size(); ++i) {
      depths_[i] =
          (static_cast<double>(i) + random.Uniform()) / static_cast<double>(depths_.size());
    }
    for (size_t i = depths_.size(); i > 1; --i) std::swap(depths_[i - 1], depths_[random.Below(i)]);
    if (options_.needle_at_start) std::fill(depths_.begin(), depths_.end(), 0.0);
  }

  const StatementsOptions options_;
  const TokenCounter counter_;
  const uint64_t bytes_, margin_;
  uint64_t questions_ = 0;
  std::vector<double> depths_;
};

template <typename Value>
absl::Status Refuse(const char* name, Value value, const std::string& must) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", value, ", must be ", must));
}

}  // namespace

double TokensPerByte(const PasskeyText& text, const TokenCounter& counter) {
  if (SingleBytes(counter)) return 1.0;
  PasskeyWriter writer(text, 1);
  const Document probe = writer.Write(kProbeBytes, {}, 0, 0.0);
  return static_cast<double>(counter.Text(probe.text)) / static_cast<double>(kProbeBytes);
}

Question AskStatement(const PasskeyText& text, const std::string& name,
                      const TokenCounter& counter) {
  Question question;
  question.text = text.Question(name);
  question.max_tokens = text.digits_length;
  question.scoring = Scoring::kBeginning;
  if (!SingleBytes(counter) && question.text.ends_with(' ')) {
    question.text.pop_back();
    question.max_tokens += 1;
  }
  return question;
}

absl::StatusOr<std::unique_ptr<Task>> MakeStatements(const StatementsOptions& options,
                                                     TokenCounter counter) {
  const PasskeyText& text = *options.text;
  if (options.samples == 0) return Refuse("samples", options.samples, "at least 1");
  if (options.needles == 0 || options.needles > kNeedlesMax) {
    return Refuse("needles", options.needles, absl::StrCat("1 to ", kNeedlesMax));
  }
  if (options.needles > text.names() / 2) {
    return Refuse("needles", options.needles,
                  absl::StrCat("at most half of the ", text.names(), " names"));
  }
  if (!(options.number_share >= 0.0 && options.number_share <= 1.0)) {
    return Refuse("number_share", options.number_share, "0 to 1");
  }
  const double per_byte = TokensPerByte(text, counter);
  const auto to_bytes = [per_byte](uint64_t tokens) {
    return static_cast<uint64_t>(static_cast<double>(tokens) / per_byte);
  };
  const uint64_t question = text.question_bytes();
  const uint64_t distance = std::max(to_bytes(options.min_distance), question);
  const uint64_t least = PasskeyWriter::RoomFor(text, options.needles, distance - question);
  const uint64_t bytes = to_bytes(options.length - std::min<uint64_t>(1, options.length));
  if (bytes < least + question) {
    return Refuse(
        "length", options.length,
        absl::StrCat("at least ", static_cast<uint64_t>((least + question) * per_byte) + 1));
  }
  return std::make_unique<StatementsTask>(options, counter, bytes - question, distance - question);
}

}  // namespace lola::evaluate
