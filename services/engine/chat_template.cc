#include "services/engine/chat_template.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/text.h"
#include "services/engine/json_reader.h"
#include "services/engine/mapped_file.h"
#include "services/engine/tokenizer/characters.h"
#include "services/engine/utf8.h"

namespace lola::engine {
namespace {

constexpr size_t kFileBytesMax = 16 << 20;
constexpr size_t kShownBytes = 160;
constexpr char kDefaultDate[] = "26 Jul 2024";

// Bytes of the blank character that `text` begins with; 0 when it begins with anything else. What
// is no UTF-8 is not blank: people's messages come here before anything has looked at them.
size_t BlankAt(std::string_view text) {
  const Utf8Step step = NextUtf8(text);
  if (step.kind != Utf8Step::kCharacter) return 0;
  const uint32_t code = CodePointAt(text, 0).code;
  return IsWhiteSpace(code) || (code >= 0x1C && code <= 0x1F) ? step.size : 0;
}

// Python's str.strip(): white space and the four information separators.
std::string_view Stripped(std::string_view text) {
  while (!text.empty()) {
    const size_t blank = BlankAt(text);
    if (blank == 0) break;
    text.remove_prefix(blank);
  }
  while (!text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    if (BlankAt(text.substr(begin)) != text.size() - begin) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

// Puts together what the template writes and what people wrote.
class Writer {
 public:
  Writer& Ours(std::string_view text) {
    chat_.control.push_back({chat_.text.size(), chat_.text.size() + text.size()});
    chat_.text += text;
    return *this;
  }
  Writer& Theirs(std::string_view text) {
    chat_.text += text;
    return *this;
  }
  ChatText Take() { return std::move(chat_); }

 private:
  ChatText chat_;
};

bool Has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// "" when missing; a token is a string or an object that holds it.
std::string TokenOf(const Json& config, const char* name) {
  const Json value = config.value(name, Json());
  const Json& text = value.is_object() && value.contains("content") ? value["content"] : value;
  return text.is_string() ? text.get<std::string>() : "";
}

// A string, or a list of named ones of which "default" is for chatting.
std::string TemplateOf(const Json& config) {
  const Json value = config.value("chat_template", Json());
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return "";
  for (const Json& entry : value) {
    if (entry.is_object() && entry.value("name", Json()) == "default" &&
        entry.contains("template") && entry["template"].is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return "";
}

// chatml: the system message a template writes by itself, between two literal markers.
std::string DefaultSystem(const std::string& text) {
  const std::string begin = "<|im_start|>system\\n";
  size_t at = text.find(begin);
  for (; at != std::string::npos; at = text.find(begin, at + 1)) {
    const size_t from = at + begin.size();
    const size_t end = text.find("<|im_end|>", from);
    if (end == std::string::npos) return "";
    const std::string literal = text.substr(from, end - from);
    if (literal.find_first_of("'\"{}+\\") == std::string::npos && !literal.empty()) return literal;
  }
  return "";
}

absl::Status BadRole(size_t index, const std::string& role, std::string_view must) {
  return absl::InvalidArgumentError(
      absl::StrCat("messages[", index, "].role: \"", role, "\", must be ", ToAbsl(must)));
}

// System first if at all, then user and assistant in turn, a user last.
absl::Status CheckRoles(const std::vector<ChatMessage>& messages, bool system_allowed) {
  size_t first = 0;
  if (!messages.empty() && messages[0].role == "system") {
    if (!system_allowed) return BadRole(0, "system", "user: this family has no system messages");
    first = 1;
  }
  for (size_t i = first; i < messages.size(); ++i) {
    const char* must = (i - first) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != must) return BadRole(i, messages[i].role, must);
  }
  if (messages.size() <= first || messages.back().role != "user") {
    return absl::InvalidArgumentError("messages: the last one must be of a user");
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<ChatTemplate> ChatTemplate::Recognise(const std::string& text) {
  ChatTemplate made;
  const bool lines = Has(text, "<|end_header_id|>\\n\\n") || Has(text, "<|end_header_id|>\n\n");
  const bool header = lines && Has(text, "<|start_header_id|>") && Has(text, "<|eot_id|>") &&
                      Has(text, "trim") && Has(text, "bos_token");
  const bool inst = Has(text, "[INST] ") && Has(text, "[/INST]") && Has(text, "eos_token");
  if (header && Has(text, "Cutting Knowledge Date: December 2023")) {
    made.family_ = Family::kLlama31;
    made.wants_today_ = Has(text, "strftime_now");
  } else if (header && !Has(text, "system") && !Has(text, "strftime")) {
    made.family_ = Family::kLlama3;
  } else if (inst && Has(text, "'<<SYS>>\\n'") && Has(text, ".strip()")) {
    made.family_ = Family::kLlama2;
  } else if (inst && Has(text, "' [/INST]'") && Has(text, "'[INST] ' + message") &&
             !Has(text, "<<SYS>>") && !Has(text, "system") && !Has(text, "trim")) {
    made.family_ = Family::kMistral1;
    made.space_behind_eos_ = Has(text, "eos_token + ' '");
  } else if (Has(text, "<|im_start|>assistant\\n") && Has(text, "<|im_end|>") &&
             !Has(text, "think") && !Has(text, "trim") && !Has(text, "strip")) {
    made.family_ = Family::kChatMl;
    made.default_system_ = DefaultSystem(text);
  } else if (std::optional<MistralForm> form = RecogniseMistral(text)) {
    made.family_ = Family::kMistral;
    made.mistral_ = *std::move(form);
  } else {
    return std::nullopt;
  }
  return made;
}

absl::StatusOr<std::optional<ChatTemplate>> ChatTemplate::Parse(std::string_view config,
                                                                std::string_view jinja) {
  const absl::StatusOr<Json> root = ParseJsonObject(config.empty() ? "{}" : config);
  if (!root.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer_config.json: ", root.status().message()));
  }
  const std::string text = jinja.empty() ? TemplateOf(*root) : std::string(jinja);
  if (text.empty()) return std::nullopt;
  std::optional<ChatTemplate> made = Recognise(text);
  if (!made) {
    return absl::UnimplementedError(
        absl::StrCat("chat_template: ", ShowJson(text.substr(0, kShownBytes)),
                     " (known: llama-2, llama-3, llama-3.1, mistral-v1, mistral-v3, "
                     "mistral-v3-tekken, mistral-v7, mistral-v7-tekken, chatml)"));
  }
  made->bos_ = TokenOf(*root, "bos_token");
  made->eos_ = TokenOf(*root, "eos_token");
  made->end_of_turn_ = made->family_ == Family::kChatMl ? "<|im_end|>"
                       : made->family_ == Family::kLlama3 || made->family_ == Family::kLlama31
                           ? "<|eot_id|>"
                           : made->eos_;
  const bool needs_bos = made->family_ != Family::kChatMl;
  if (made->end_of_turn_.empty() || (needs_bos && made->bos_.empty())) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer_config.json: bos_token \"", made->bos_, "\" and eos_token \"",
                     made->eos_, "\", a ", ToAbsl(made->family()), " template needs both"));
  }
  return made;
}

absl::StatusOr<std::optional<ChatTemplate>> ChatTemplate::Load(const std::string& model_dir) {
  std::string texts[2];
  const char* names[2] = {"/tokenizer_config.json", "/chat_template.jinja"};
  for (int i = 0; i < 2; ++i) {
    absl::StatusOr<std::string> text = ReadTextFile(model_dir + names[i], kFileBytesMax);
    if (!text.ok() && !absl::IsNotFound(text.status())) return text.status();
    if (text.ok()) texts[i] = *std::move(text);
  }
  auto made = Parse(texts[0], texts[1]);
  if (made.ok()) return made;
  return absl::Status(made.status().code(), absl::StrCat(model_dir, ": ", made.status().message()));
}

std::string_view ChatTemplate::family() const {
  switch (family_) {
    case Family::kLlama2:
      return "llama-2";
    case Family::kLlama3:
      return "llama-3";
    case Family::kLlama31:
      return "llama-3.1";
    case Family::kMistral1:
      return "mistral-v1";
    case Family::kMistral:
      return mistral_.name();
    case Family::kChatMl:
      return "chatml";
  }
  return "unknown";
}

std::string_view ChatTemplate::date_format() const {
  if (wants_today_) return "%d %b %Y";
  return family_ == Family::kMistral && mistral_.wants_date() ? "%Y-%m-%d" : "";
}

absl::StatusOr<ChatText> ChatTemplate::BeginMistral(const std::vector<ChatMessage>& messages,
                                                    const std::string& date) const {
  using System = MistralForm::System;
  const bool has_system = messages[0].role == "system";
  Writer out;
  out.Ours(bos_);
  if (mistral_.system == System::kBlock && (has_system || !mistral_.default_system.empty())) {
    out.Ours(mistral_.system_begin);
    if (has_system) out.Theirs(messages[0].content);
    for (const MistralForm::Piece& piece : mistral_.default_system) {
      if (has_system) break;
      if (piece.date && date.empty()) {
        return absl::InvalidArgumentError("date: empty, the template's system message tells it");
      }
      out.Theirs(piece.date ? date : piece.text);
    }
    out.Ours(mistral_.system_end);
  }
  for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    if (role == "assistant") {
      out.Ours(mistral_.reply_begin);
      out.Theirs(mistral_.trims_reply ? Stripped(content) : content).Ours(eos_);
      continue;
    }
    const bool here = mistral_.system == System::kFirstUser  ? i == 1
                      : mistral_.system == System::kLastUser ? i + 1 == messages.size()
                                                             : content == messages.back().content;
    out.Ours(mistral_.user_begin);
    if (has_system && here && mistral_.system != System::kBlock) {
      out.Theirs(messages[0].content + "\n\n");
    }
    out.Theirs(content).Ours(mistral_.user_end);
  }
  return out.Take();
}

absl::StatusOr<ChatText> ChatTemplate::Begin(const std::vector<ChatMessage>& messages,
                                             const std::string& date) const {
  const bool no_system =
      family_ == Family::kMistral1 ||
      (family_ == Family::kMistral && mistral_.system == MistralForm::System::kNone);
  if (absl::Status roles = CheckRoles(messages, !no_system); !roles.ok()) return roles;
  if (family_ == Family::kMistral) return BeginMistral(messages, date);
  Writer out;
  const bool has_system = messages[0].role == "system";
  const std::string system = has_system ? messages[0].content : "";
  const bool header = family_ == Family::kLlama3 || family_ == Family::kLlama31;
  if (header || family_ == Family::kMistral1) out.Ours(bos_);
  if (family_ == Family::kLlama31) {
    out.Ours(
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n");
    out.Ours("Today Date: ").Theirs(date.empty() ? kDefaultDate : date).Ours("\n\n");
    out.Theirs(Stripped(system)).Ours("<|eot_id|>");
  }
  if (family_ == Family::kChatMl && !has_system && !default_system_.empty()) {
    out.Ours("<|im_start|>system\n").Theirs(default_system_).Ours("<|im_end|>\n");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    const bool in_front =
        role == "system" && (family_ == Family::kLlama31 || family_ == Family::kLlama2);
    if (in_front) continue;  // part of what stands around it
    if (header) {
      out.Ours("<|start_header_id|>" + role + "<|end_header_id|>\n\n");
      out.Theirs(Stripped(content)).Ours("<|eot_id|>");
    } else if (family_ == Family::kChatMl) {
      out.Ours("<|im_start|>" + role + "\n").Theirs(content).Ours("<|im_end|>\n");
    } else if (role == "assistant" && family_ == Family::kLlama2) {
      out.Ours(" ").Theirs(Stripped(content)).Ours(" " + eos_);
    } else if (role == "assistant") {
      out.Theirs(content).Ours(eos_).Ours(space_behind_eos_ ? " " : "");
    } else if (family_ == Family::kMistral1) {
      out.Ours("[INST] ").Theirs(content).Ours(" [/INST]");
    } else {
      const bool first = i == (has_system ? 1 : 0);
      const std::string whole =
          first && has_system ? "<<SYS>>\n" + system + "\n<</SYS>>\n\n" + content : content;
      out.Ours(bos_ + "[INST] ").Theirs(Stripped(whole)).Ours(" [/INST]");
    }
  }
  if (header) out.Ours("<|start_header_id|>assistant<|end_header_id|>\n\n");
  if (family_ == Family::kChatMl) out.Ours("<|im_start|>assistant\n");
  return out.Take();
}

ChatText ChatTemplate::Next(const std::string& user) const {
  Writer out;
  out.Ours(end_of_turn_);
  switch (family_) {
    case Family::kLlama2:
      out.Ours(bos_ + "[INST] ").Theirs(Stripped(user)).Ours(" [/INST]");
      break;
    case Family::kMistral1:
      out.Ours(space_behind_eos_ ? " [INST] " : "[INST] ").Theirs(user).Ours(" [/INST]");
      break;
    case Family::kMistral:
      out.Ours(mistral_.user_begin).Theirs(user).Ours(mistral_.user_end);
      break;
    case Family::kChatMl:
      out.Ours("\n<|im_start|>user\n").Theirs(user).Ours("<|im_end|>\n<|im_start|>assistant\n");
      break;
    case Family::kLlama3:
    case Family::kLlama31:
      out.Ours("<|start_header_id|>user<|end_header_id|>\n\n").Theirs(Stripped(user));
      out.Ours("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
      break;
  }
  return out.Take();
}

absl::Status ChatTemplate::CheckTokenizer(const Tokenizer& tokenizer) const {
  for (const std::string& name : {bos_, end_of_turn_}) {
    if (name.empty() || (family_ == Family::kChatMl && name == bos_)) continue;
    const auto ids = tokenizer.Encode(name, {true, {{0, name.size()}}});
    if (!ids.ok()) return ids.status();
    const auto id = tokenizer.SpecialId(name);
    if (id && ids->size() == 1 && ids->front() == *id) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("chat_template: \"", name, "\" of the family ", ToAbsl(family()),
                     " is no control token of the ", ToAbsl(tokenizer.kind()), " tokenizer"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer, const ChatText& chat) {
  return tokenizer.Encode(chat.text, {true, chat.control});
}

absl::StatusOr<std::vector<int32_t>> EncodeNextTurn(const Tokenizer& tokenizer,
                                                    const ChatText& chat, bool reply_has_ended) {
  auto ids = EncodeChat(tokenizer, chat);
  if (!ids.ok() || !reply_has_ended) return ids;
  ids->erase(ids->begin());
  return ids;
}

}  // namespace lola::engine
