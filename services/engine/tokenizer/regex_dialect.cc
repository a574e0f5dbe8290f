#include "services/engine/tokenizer/regex_dialect.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "memory/text.h"

namespace lola::engine {
namespace {

// Walks a pattern once and writes its translation.
class Translator {
 public:
  Translator(std::string_view field, std::string_view pattern) : field_(field), in_(pattern) {}

  absl::StatusOr<std::string> Run() {
    absl::Status status;
    while (at_ < in_.size() && status.ok()) {
      switch (in_[at_]) {
        case '\\':
          status = Escape();
          break;
        case '[':
          status = Class();
          break;
        case '(':
          status = Group();
          break;
        case '{':
          status = Interval();
          break;
        case '^':
        case '$':
          status = Refuse("an anchor");
          break;
        default:
          out_ += in_[at_++];
      }
    }
    if (!status.ok()) return status;
    return out_;
  }

 private:
  absl::Status Refuse(std::string_view what) const {
    return absl::UnimplementedError(absl::StrCat(ToAbsl(field_), ": ", ToAbsl(what), " at byte ",
                                                 at_, " of \"", ToAbsl(in_), "\""));
  }

  absl::Status Escape() {
    if (at_ + 1 == in_.size()) return Refuse("a backslash at the end");
    const char c = in_[at_ + 1];
    if (c == 'p' || c == 'P') return Property(c);
    if (c == 's' || c == 'S') {
      out_ += c == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
    } else if (c == 'd' || c == 'D') {
      out_ += c == 'd' ? "\\p{Nd}" : "\\P{Nd}";
    } else if (c == 'r' || c == 'n' || c == 't' || absl::ascii_ispunct(c) || c == ' ') {
      out_ += '\\';
      out_ += c;
    } else {
      return Refuse(absl::StrCat("the escape \\", std::string(1, c)));
    }
    at_ += 2;
    return absl::OkStatus();
  }

  // \p{Name}, \p{^Name}: general categories and white space as they are, any other name is a
  // script.
  absl::Status Property(char letter) {
    static const std::set<std::string, std::less<>>* categories =
        new std::set<std::string, std::less<>>{
            "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd",
            "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm",
            "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co", "White_Space"};
    const size_t close = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string_view::npos) {
      return Refuse("a property without braces");
    }
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    bool negated = letter == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    const bool letters =
        std::all_of(name.begin(), name.end(), [](char c) { return absl::ascii_isalpha(c); });
    const bool category = categories->find(name) != categories->end();
    if (!category && (!letters || name.size() < 3)) {
      return Refuse(absl::StrCat("the property ", ToAbsl(name)));
    }
    absl::StrAppend(&out_, negated ? "\\P{" : "\\p{", category ? "" : "sc:", ToAbsl(name), "}");
    at_ = close + 1;
    return absl::OkStatus();
  }

  absl::Status Class() {
    out_ += in_[at_++];
    if (at_ < in_.size() && in_[at_] == '^') out_ += in_[at_++];
    if (at_ < in_.size() && in_[at_] == ']') return Refuse("an empty class");
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '[') return Refuse("a class inside a class");
      if (in_.substr(at_, 2) == "&&") return Refuse("an intersection of classes");
      if (in_[at_] == '\\') {
        if (absl::Status status = Escape(); !status.ok()) return status;
      } else {
        out_ += in_[at_++];
      }
    }
    if (at_ == in_.size()) return Refuse("a class without an end");
    out_ += in_[at_++];
    return absl::OkStatus();
  }

  absl::Status Group() {
    for (const std::string_view open : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (!in_.substr(at_).starts_with(open)) continue;
      out_ += open;
      at_ += open.size();
      return absl::OkStatus();
    }
    if (at_ + 1 < in_.size() && (in_[at_ + 1] == '?' || in_[at_ + 1] == '*')) {
      return Refuse(absl::StrCat("the group ", ToAbsl(in_.substr(at_, 4))));
    }
    out_ += in_[at_++];
    return absl::OkStatus();
  }

  // {n}, {n,}, {,n}, {n,m}. In Oniguruma a plus behind it repeats, in PCRE2 it is possessive.
  absl::Status Interval() {
    const size_t close = in_.find('}', at_);
    const std::string_view body =
        close == std::string_view::npos ? "" : in_.substr(at_ + 1, close - at_ - 1);
    const bool counts = !body.empty() && std::all_of(body.begin(), body.end(), [](char c) {
      return absl::ascii_isdigit(c) || c == ',';
    });
    const bool plain = counts && absl::ascii_isdigit(body.front()) &&
                       std::count(body.begin(), body.end(), ',') <= 1;
    if (!plain) return Refuse("braces that are no {n,m}");
    if (close + 1 < in_.size() && (in_[close + 1] == '+' || in_[close + 1] == '?')) {
      return Refuse("a possessive or lazy {n,m}");
    }
    out_ += in_.substr(at_, close + 1 - at_);
    at_ = close + 1;
    return absl::OkStatus();
  }

  const std::string_view field_;
  const std::string_view in_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> TranslateOniguruma(std::string_view field, std::string_view pattern) {
  return Translator(field, pattern).Run();
}

}  // namespace lola::engine
