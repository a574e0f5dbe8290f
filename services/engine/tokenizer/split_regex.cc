#define PCRE2_CODE_UNIT_WIDTH 8
#include "services/engine/tokenizer/split_regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "memory/text.h"
#include "services/engine/tokenizer/regex_dialect.h"

namespace lola::engine {
namespace {

constexpr size_t kPatternBytesMax = 16 << 10;
// Backtracking steps of one match: a run of white space as long as the largest text a client may
// send needs about one per byte, a pattern that explodes is ended within a second.
constexpr uint32_t kMatchStepsMax = 20'000'000;
constexpr uint32_t kHeapKibMax = 256 << 10;

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// One match attempt after another over one text.
class Matcher {
 public:
  explicit Matcher(const pcre2_code* code)
      : code_(code),
        data_(pcre2_match_data_create_from_pattern(code, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    pcre2_set_match_limit(context_, kMatchStepsMax);
    pcre2_set_heap_limit(context_, kHeapKibMax);
  }
  ~Matcher() {
    pcre2_match_data_free(data_);
    pcre2_match_context_free(context_);
  }
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;

  // PCRE2's answer; >= 0 when found.
  int Find(std::string_view text, size_t from) {
    const auto run = [&](uint32_t options) {
      return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         options | PCRE2_NO_UTF_CHECK, data_, context_);
    };
    const int found = run(0);
    // The compiled code has a small stack; the interpreter gives the same answer from the heap.
    return found == PCRE2_ERROR_JIT_STACKLIMIT ? run(PCRE2_NO_JIT) : found;
  }
  size_t begin() const { return pcre2_get_ovector_pointer(data_)[0]; }
  size_t end() const { return pcre2_get_ovector_pointer(data_)[1]; }

 private:
  const pcre2_code* code_;
  pcre2_match_data* data_;
  pcre2_match_context* context_;
};

}  // namespace

absl::StatusOr<SplitRegex> SplitRegex::Compile(std::string_view field, std::string_view pattern) {
  if (pattern.empty() || pattern.size() > kPatternBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(ToAbsl(field), ": ", pattern.size(),
                                                   " bytes, must be 1 to ", kPatternBytesMax));
  }
  absl::StatusOr<std::string> translated = TranslateOniguruma(field, pattern);
  if (!translated.ok()) return translated.status();
  return CompileTranslated(field, *std::move(translated));
}

absl::StatusOr<SplitRegex> SplitRegex::Literal(std::string_view field, std::string_view literal) {
  std::string pattern;
  for (const char c : literal) {
    const auto byte = static_cast<uint8_t>(c);
    const bool plain = byte >= 0x80 || absl::ascii_isalnum(byte);
    if (plain) {
      pattern += c;
    } else {
      absl::StrAppend(&pattern, "\\x{", absl::Hex(byte), "}");
    }
  }
  return CompileTranslated(field, std::move(pattern));
}

absl::StatusOr<SplitRegex> SplitRegex::CompileTranslated(std::string_view field,
                                                         std::string pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(ToAbsl(field), ": ", ErrorText(error),
                                                   " at byte ", offset, " of \"", pattern, "\""));
  }
  SplitRegex regex;
  regex.code_ = std::shared_ptr<const pcre2_code>(
      code, [](const pcre2_code* c) { pcre2_code_free(const_cast<pcre2_code*>(c)); });
  uint32_t empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &empty);
  if (empty != 0) {
    return absl::UnimplementedError(
        absl::StrCat(ToAbsl(field), ": \"", pattern, "\" can match nothing"));
  }
  // Without a just-in-time compiler on this machine the interpreter gives the same matches.
  (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  regex.pattern_ = std::move(pattern);
  return regex;
}

absl::Status SplitRegex::ForEach(std::string_view text,
                                 const std::function<void(size_t, size_t, bool)>& piece) const {
  Matcher matcher(code_.get());
  size_t at = 0;
  while (at < text.size()) {
    const int found = matcher.Find(text, at);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("pre_tokenizer pattern at byte ", at, " of ",
                                                       text.size(), ": ", ErrorText(found)));
    }
    if (matcher.begin() > at) piece(at, matcher.begin(), false);
    piece(matcher.begin(), matcher.end(), true);
    at = matcher.end();
  }
  if (at < text.size()) piece(at, text.size(), false);
  return absl::OkStatus();
}

}  // namespace lola::engine
