#include "services/engine/mistral_template.h"

#include <algorithm>
#include <utility>

#include "services/engine/jinja_tags.h"

namespace lola::engine {
namespace {

constexpr std::string_view kContent = "message[\"content\"]";
// The same for a message that may also be a list of parts.
constexpr std::string_view kContentOrPart =
    "(message[\"content\"]ifmessage[\"content\"]isstringelsemessage[\"content\"][0][\"text\"])";

bool Has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// One open {% if %} or {% for %}.
struct Level {
  std::string condition;   // of the branch; empty: else, or a loop
  bool plain = true;       // a plain chat may come here
  bool rest_plain = true;  // and to the branches behind this one
};

// What must hold of every template, gathered tag by tag.
class Reader {
 public:
  // False: no template of this kind.
  bool Take(const JinjaTag& tag) { return tag.output ? Output(tag.code) : Block(tag.code); }
  std::optional<MistralForm> Form();

 private:
  bool Block(const std::string& code);
  bool Set(std::string_view code);
  bool Output(const std::string& code);
  bool User(const std::vector<std::string>& terms);
  bool Default(std::string_view value);
  bool Plain() const {
    return std::all_of(levels_.begin(), levels_.end(), [](const Level& l) { return l.plain; });
  }
  // Gives `kept` its value, or compares with the one it has.
  static bool Same(std::optional<std::string>& kept, const std::string& value) {
    if (!kept) kept = value;
    return *kept == value;
  }

  std::vector<Level> levels_;
  bool bos_ = false, hoists_ = false, uses_default_ = false, knows_today_ = false;
  bool from_hoist_ = false, guarded_ = false;  // the block of the system message
  std::optional<std::string> user_begin_, user_end_, reply_, system_begin_, system_end_;
  std::optional<MistralForm::System> merged_;
  std::vector<MistralForm::Piece> default_;
};

// A branch, and whether a chat without tools, images and lists of parts may take it.
Level Entered(std::string_view condition) {
  Level level;
  level.condition = condition;
  const bool is_text = condition == "message[\"content\"]isstring" ||
                       condition == "messages[0][\"content\"]isstring" ||
                       condition == "messages[0]isstring";
  if (is_text) {
    level.rest_plain = false;
  } else if (Has(condition, "tool")) {
    const bool denied = condition.starts_with("not") || Has(condition, "isnone") ||
                        Has(condition, "notdefined") || Has(condition, "undefined");
    level.plain = denied;
  }
  return level;
}

bool Reader::Block(const std::string& code) {
  const std::string_view view = code;
  if (view.starts_with("set")) return Set(view.substr(3));
  if (view == "endif" || view == "endfor") {
    if (levels_.empty()) return false;
    levels_.pop_back();
    return true;
  }
  if (view == "else" || view.starts_with("elif")) {
    if (levels_.empty()) return false;
    const bool reached = levels_.back().rest_plain;
    levels_.back() = view == "else" ? Level() : Entered(view.substr(4));
    levels_.back().plain &= reached;
    levels_.back().rest_plain &= reached;
    return true;
  }
  if (view.starts_with("if")) {
    levels_.push_back(Entered(view.substr(2)));
    return true;
  }
  if (!view.starts_with("for")) return false;
  const bool messages = view == (hoists_ ? "formessageinloop_messages" : "formessageinmessages");
  Level level;
  level.plain = messages;
  if (!messages && Plain()) return false;
  levels_.push_back(level);
  return true;
}

bool Reader::Set(std::string_view code) {
  const size_t equals = code.find('=');
  const std::string_view name = code.substr(0, equals);
  const std::string_view value =
      equals == std::string_view::npos ? std::string_view() : code.substr(equals + 1);
  if (name == "loop_messages") {
    hoists_ = true;
    return value == "messages" || value == "messages[1:]";
  }
  if (name == "system_message") {
    uses_default_ |= value == "default_system_message";
    return value == "default_system_message" || value == "messages[0][\"content\"]" ||
           value == "messages[0][\"content\"][0][\"text\"]";
  }
  if (name == "today") {
    knows_today_ = true;
    return value == "strftime_now(\"%Y-%m-%d\")";
  }
  if (name == "default_system_message") return default_.empty() && Default(value);
  // Others are for checks and tools: no output below reads them.
  return name != "message" && name != "messages" && name != "bos_token" && name != "eos_token";
}

bool Reader::Default(std::string_view value) {
  for (const std::string& term : JinjaTerms(value)) {
    MistralForm::Piece piece;
    piece.date = term == "today" && knows_today_;
    const auto text = JinjaLiteral(term);
    if (!piece.date && !text) return false;
    piece.text = text.value_or("");
    default_.push_back(std::move(piece));
  }
  return true;
}

// "[INST] " + content + "[/INST]", or with the system message in front of the content.
bool Reader::User(const std::vector<std::string>& terms) {
  if (!Same(user_begin_, *JinjaLiteral(terms.front())) ||
      !Same(user_end_, *JinjaLiteral(terms.back()))) {
    return false;
  }
  if (terms.size() == 3) return terms[1] == kContent;
  if (terms.size() != 5 || terms[1] != "system_message" || terms[2] != "\"\\n\\n\"" ||
      terms[3] != kContent || levels_.empty() || merged_) {
    return false;
  }
  const std::string_view when = levels_.back().condition;
  if (when == "loop.firstandsystem_messageisdefined") {
    merged_ = MistralForm::System::kFirstUser;
  } else if (when == "loop.lastandsystem_messageisdefined") {
    merged_ = MistralForm::System::kLastUser;
  } else if (when == "(message==user_messages[-1])andsystem_messageisdefined") {
    merged_ = MistralForm::System::kLikeLastUser;
  } else {
    return false;
  }
  return true;
}

bool Reader::Output(const std::string& code) {
  if (!Plain() || code.starts_with("raise_exception(")) return true;
  if (code == "bos_token") return !std::exchange(bos_, true);
  const std::vector<std::string> terms = JinjaTerms(code);
  const bool framed =
      terms.size() >= 3 && JinjaLiteral(terms.front()) && JinjaLiteral(terms.back());
  if (framed && Has(terms.front(), "[INST]") && Has(terms.back(), "[/INST]")) return User(terms);
  if (framed && Has(terms.front(), "[SYSTEM_PROMPT]") && Has(terms.back(), "[/SYSTEM_PROMPT]")) {
    const bool known = terms.size() == 3 && (terms[1] == "system_message" || terms[1] == kContent ||
                                             terms[1] == kContentOrPart);
    if (terms[1] == "system_message") {
      from_hoist_ = true;
      guarded_ = !levels_.empty() && levels_.back().condition == "system_messageisdefined";
    }
    return known && Same(system_begin_, *JinjaLiteral(terms.front())) &&
           Same(system_end_, *JinjaLiteral(terms.back()));
  }
  // [" " +] content [| trim] + eos_token
  if (terms.size() < 2 || terms.size() > 3 || terms.back() != "eos_token") return false;
  const std::string& content = terms[terms.size() - 2];
  if (content != kContent && content != std::string(kContent) + "|trim") return false;
  if (terms.size() == 3 && !JinjaLiteral(terms[0])) return false;
  return Same(reply_, code);
}

std::optional<MistralForm> Reader::Form() {
  if (!levels_.empty() || !bos_ || !user_begin_ || !reply_ || (merged_ && system_begin_)) {
    return std::nullopt;
  }
  // Hoisted out of the messages, a system message must come back once, and be there when it does.
  if (from_hoist_ && !hoists_) return std::nullopt;
  if (hoists_ && !merged_ && !(from_hoist_ && (uses_default_ || guarded_))) return std::nullopt;
  if (uses_default_ != !default_.empty()) return std::nullopt;
  MistralForm form;
  form.user_begin = *user_begin_;
  form.user_end = *user_end_;
  const std::vector<std::string> reply = JinjaTerms(*reply_);
  if (reply.size() == 3) form.reply_begin = *JinjaLiteral(reply[0]);
  form.trims_reply = reply[reply.size() - 2].ends_with("|trim");
  if (merged_) form.system = *merged_;
  if (system_begin_) {
    form.system = MistralForm::System::kBlock;
    form.system_begin = *system_begin_;
    form.system_end = *system_end_;
    form.default_system = default_;
  }
  return form;
}

}  // namespace

std::string_view MistralForm::name() const {
  const bool spaces = user_begin.ends_with(' ');
  if (user_end.starts_with(' ')) return "mistral-v1";
  if (system == System::kBlock) return spaces ? "mistral-v7" : "mistral-v7-tekken";
  return spaces ? "mistral-v3" : "mistral-v3-tekken";
}

bool MistralForm::wants_date() const {
  return std::any_of(default_system.begin(), default_system.end(),
                     [](const Piece& piece) { return piece.date; });
}

std::optional<MistralForm> RecogniseMistral(std::string_view jinja) {
  const auto tags = ReadJinjaTags(jinja);
  if (!tags) return std::nullopt;
  Reader reader;
  for (const JinjaTag& tag : *tags) {
    if (!reader.Take(tag)) return std::nullopt;
  }
  return reader.Form();
}

}  // namespace lola::engine
