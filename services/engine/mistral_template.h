// Mistral's chat templates since their [INST] became control tokens, read from the text of a Jinja
// template. The language is not interpreted: the parts of the template that a plain chat reaches
// (no tools, no images) must be the few expressions these templates are made of.
//
//   name                turn of a user        system message                     reply
//   mistral-v1          " [INST] u [/INST]"   before the first user's            " reply</s>"
//   mistral-v3          "[INST] u[/INST]"     before the last user's             " reply</s>"
//   mistral-v3-tekken   "[INST]u[/INST]"      before the last user's             "reply</s>"
//   mistral-v7          "[INST] u[/INST]"     [SYSTEM_PROMPT] s[/SYSTEM_PROMPT]  " reply</s>"
//   mistral-v7-tekken   "[INST]u[/INST]"      [SYSTEM_PROMPT]s[/SYSTEM_PROMPT]   "reply</s>"
#ifndef LOLA_SERVICES_ENGINE_MISTRAL_TEMPLATE_H_
#define LOLA_SERVICES_ENGINE_MISTRAL_TEMPLATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lola::engine {

// How one of these templates writes a chat. Plain values.
struct MistralForm {
  enum class System : uint8_t {
    kNone,
    kFirstUser,     // before the text of the first user's message, an empty line between
    kLastUser,      // of the last one
    kLikeLastUser,  // of every one that says the same as the last one
    kBlock,         // a block of its own
  };
  // A piece of the system message a template writes when a chat has none.
  struct Piece {
    bool date = false;  // today, "%Y-%m-%d"
    std::string text;
  };

  std::string user_begin, user_end;
  std::string reply_begin;  // ends with the template's eos_token
  bool trims_reply = false;
  System system = System::kNone;
  std::string system_begin, system_end;  // kBlock
  std::vector<Piece> default_system;     // kBlock; empty: no block without a system message

  std::string_view name() const;
  bool wants_date() const;
};

// Nothing when a plain chat could meet an expression that is not known.
std::optional<MistralForm> RecogniseMistral(std::string_view jinja);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_MISTRAL_TEMPLATE_H_
