#include "services/evaluate/perplexity.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/mapped_file.h"
#include "services/evaluate/line_script.h"

namespace lola::evaluate {
namespace {

constexpr size_t kFileBytesMax = size_t{1} << 30;
constexpr uint64_t kMultiple = 1000;  // of the training length
constexpr size_t kTextPiece = 1024;   // bytes
constexpr uint64_t kInFront = 8;      // <bos>, and what a tokenizer puts in front of a text

constexpr size_t kStretchBytesMin = 64;

// Where stretch `index` of a text begins: behind a blank.
size_t StretchBegin(std::string_view text, uint64_t stretches, uint64_t index) {
  if (index == 0) return 0;
  if (index >= stretches) return text.size();
  const size_t blank = text.find_first_of(" \n", text.size() / stretches * index);
  return blank == std::string_view::npos ? text.size() : blank + 1;
}

// A stretch of a text, piece by piece, until it ends or the next character would be more than
// `tokens` tokens.
class TextScript : public Script {
 public:
  TextScript(std::string_view text, uint64_t tokens, bool repeat, const TokenCounter& counter)
      : text_(text), tokens_(tokens), repeat_(repeat), counter_(counter) {}

  Step Next() override {
    if (tokens_ == 0) return {};
    while (pending_.size() < kTextPiece && (at_ < text_.size() || repeat_)) {
      if (at_ == text_.size()) at_ = 0;
      size_t end = std::min(text_.size(), at_ + kTextPiece);
      if (end < text_.size()) {
        const size_t blank = text_.find_last_of(" \n", end - 1);
        if (blank != std::string_view::npos && blank >= at_) end = blank + 1;
        while (end < text_.size() && (text_[end] & 0xC0) == 0x80) ++end;  // whole characters
      }
      pending_ += text_.substr(at_, end - at_);
      at_ = end;
    }
    if (pending_.find_last_not_of(' ') == std::string::npos) return {};
    Step step = TakePiece(pending_, marks_);
    uint64_t count = counter_.Text(step.text);
    while (count > tokens_) {
      // The end of the stream lies in this piece: about as much of it as there are tokens left.
      size_t size = step.text.size() * tokens_ / count;
      while (size > 0 && (step.text[size] & 0xC0) == 0x80) --size;
      step.text.resize(size);
      if (size == 0) return {};
      count = counter_.Text(step.text);
      if (count <= tokens_) {
        tokens_ = 0;
        return step;
      }
    }
    tokens_ -= count;
    return step;
  }

 private:
  const std::string_view text_;
  uint64_t tokens_;
  const bool repeat_;
  const TokenCounter& counter_;
  size_t at_ = 0;
  std::string pending_;
  std::vector<Mark> marks_;
};

class PerplexityTask : public Task {
 public:
  PerplexityTask(const PerplexityOptions& options, std::string text, uint64_t length,
                 TokenCounter counter)
      : options_(options), text_(std::move(text)), length_(length), counter_(counter) {}

  std::string name() const override { return "perplexity"; }
  uint64_t samples() const override { return options_.samples; }
  uint64_t tokens_per_sample() const override { return length_ + kInFront; }
  uint64_t measured_unit() const override {
    return options_.trained_length > 0 ? options_.trained_length : 1024;
  }
  std::unique_ptr<Script> Open(uint64_t index) const override {
    const size_t begin = StretchBegin(text_, options_.samples, index);
    const size_t end = StretchBegin(text_, options_.samples, index + 1);
    return std::make_unique<TextScript>(std::string_view(text_).substr(begin, end - begin), length_,
                                        options_.repeat, counter_);
  }
  std::vector<std::pair<std::string, std::string>> Facts() const override {
    return {{"text", options_.path},
            {"text_bytes", absl::StrCat(text_.size())},
            {"repeated", options_.repeat ? "true" : "false"},
            {"tokens_per_stream", absl::StrCat(length_)},
            {"training_length", absl::StrCat(options_.trained_length)}};
  }

 private:
  const PerplexityOptions options_;
  const std::string text_;
  const uint64_t length_;
  const TokenCounter counter_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Task>> MakePerplexity(const PerplexityOptions& options,
                                                     TokenCounter counter) {
  if (options.path.empty()) {
    return absl::InvalidArgumentError("text: perplexity needs a text file (--text FILE)");
  }
  if (options.samples == 0) return absl::InvalidArgumentError("samples: 0, must be at least 1");
  absl::StatusOr<std::string> text = engine::ReadTextFile(options.path, kFileBytesMax);
  if (!text.ok()) return text.status();
  const absl::Status utf8 = engine::CheckUtf8(*text, options.path);
  if (!utf8.ok()) return utf8;
  // Tokens of the shortest stretch, from a part of it.
  const uint64_t stretch = text->size() / options.samples;
  if (stretch < kStretchBytesMin) {
    return absl::InvalidArgumentError(absl::StrCat("text: ", options.path, " has ", text->size(),
                                                   " bytes, too few for ", options.samples,
                                                   " streams"));
  }
  for (uint64_t i = 0; i < options.samples; ++i) {
    const size_t begin = StretchBegin(*text, options.samples, i);
    const size_t end = StretchBegin(*text, options.samples, i + 1);
    if (end - begin >= kStretchBytesMin) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("samples: ", options.samples, ", but ", options.path,
                     " has too few blanks to be cut there: stretch ", i, " has ", end - begin,
                     " bytes, must be at least ", kStretchBytesMin));
  }
  size_t probe = std::min<size_t>(stretch, 64 << 10);
  while (probe < text->size() && ((*text)[probe] & 0xC0) == 0x80) ++probe;
  const double per_byte =
      static_cast<double>(counter.Text(text->substr(0, probe))) / static_cast<double>(probe);
  const auto tokens = static_cast<uint64_t>(static_cast<double>(stretch) * per_byte);
  uint64_t length = options.length;
  if (length == 0) {
    length = options.trained_length > 0 ? kMultiple * options.trained_length : tokens;
    if (!options.repeat) length = std::min(length, tokens);
  } else if (length > tokens && !options.repeat) {
    return absl::InvalidArgumentError(absl::StrCat(
        "length: ", length, ", but each of ", options.samples, " stretches of ", options.path,
        " has about ", tokens, " tokens; give a longer text, fewer samples, or --repeat-haystack"));
  }
  return std::make_unique<PerplexityTask>(options, *std::move(text), length, counter);
}

}  // namespace lola::evaluate
