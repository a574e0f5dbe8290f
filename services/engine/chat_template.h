// Conversations as the text a chat model was trained on, as transformers' apply_chat_template
// renders them for plain system, user and assistant messages (no tools). No template language is
// interpreted: the family is recognised by the text of the template, anything else is refused.
//
//   family        turn of a user                                                     ends a reply
//   llama-2       <s>[INST] user [/INST]                                             </s>
//   llama-3       <|start_header_id|>user<|end_header_id|>\n\nuser<|eot_id|>         <|eot_id|>
//   llama-3.1     as llama-3, behind a system message with two dates                 <|eot_id|>
//   mistral-v1    [INST] user [/INST]                (first releases of v0.1, v0.2)  </s>
//   mistral-v1 to mistral-v7-tekken, later releases: mistral_template.h              </s>
//   chatml        <|im_start|>user\nuser<|im_end|>\n                                 <|im_end|>
//
// A ChatTemplate is immutable: any thread may call.
#ifndef LOLA_SERVICES_ENGINE_CHAT_TEMPLATE_H_
#define LOLA_SERVICES_ENGINE_CHAT_TEMPLATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/mistral_template.h"
#include "services/engine/tokenizer.h"

namespace lola::engine {

struct ChatMessage {
  std::string role;  // "system" (first only), "user", "assistant"
  std::string content;
};

// A rendered text and the parts of it that the template wrote: control tokens count only there.
struct ChatText {
  std::string text;
  std::vector<TextRange> control;
};

class ChatTemplate {
 public:
  enum class Family : uint8_t { kLlama2, kLlama3, kLlama31, kMistral1, kMistral, kChatMl };

  // `config`: the text of a tokenizer_config.json; `jinja`: of a chat_template.jinja beside it,
  // which wins when it is not empty. Nothing when neither has a template; UNIMPLEMENTED naming the
  // beginning of a template that is none of the families above.
  static absl::StatusOr<std::optional<ChatTemplate>> Parse(std::string_view config,
                                                           std::string_view jinja = {});
  // Reads both files of a model directory; missing ones have no template.
  static absl::StatusOr<std::optional<ChatTemplate>> Load(const std::string& model_dir);

  std::string_view family() const;
  // The token that ends a reply, in the tokenizer's spelling.
  const std::string& end_of_turn() const { return end_of_turn_; }

  // FAILED_PRECONDITION when the family's control tokens are none of the tokenizer's: the two
  // belong to different models.
  absl::Status CheckTokenizer(const Tokenizer& tokenizer) const;
  // How the template writes today's date, as strftime has it: "%d %b %Y" (Llama 3.2), "%Y-%m-%d"
  // (Mistral's own system message); empty when it writes none.
  std::string_view date_format() const;

  // A whole conversation, ready for a reply. `date` is today's by date_format(); llama-3.1 has
  // "26 Jul 2024" when it is empty, as its template says. INVALID_ARGUMENT naming the message when
  // roles do not alternate as the family wants them, or the date a system message lacks.
  absl::StatusOr<ChatText> Begin(const std::vector<ChatMessage>& messages,
                                 const std::string& date = {}) const;
  // The next user message of a conversation whose last part was a reply, ended by the model or cut
  // short; begins with end_of_turn(), see EncodeNextTurn. What was said stays where it is:
  // templates that move the system message to the last user's (mistral-v3) would write it anew
  // every turn.
  ChatText Next(const std::string& user) const;

 private:
  ChatTemplate() = default;
  static std::optional<ChatTemplate> Recognise(const std::string& text);
  absl::StatusOr<ChatText> BeginMistral(const std::vector<ChatMessage>& messages,
                                        const std::string& date) const;

  Family family_ = Family::kChatMl;
  std::string bos_, eos_;  // of tokenizer_config.json
  std::string end_of_turn_;
  std::string default_system_;     // chatml: when a conversation has no system message
  bool space_behind_eos_ = false;  // mistral-v1
  bool wants_today_ = false;       // llama-3.1
  MistralForm mistral_;            // kMistral
};

// Ids of a rendered conversation that begins a stream. REQUIRES here and below: CheckTokenizer
// answered OK for the template.
absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer, const ChatText& chat);
// Ids of ChatTemplate::Next: without the token that ends the reply when the stream has it already.
absl::StatusOr<std::vector<int32_t>> EncodeNextTurn(const Tokenizer& tokenizer,
                                                    const ChatText& chat, bool reply_has_ended);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_CHAT_TEMPLATE_H_
