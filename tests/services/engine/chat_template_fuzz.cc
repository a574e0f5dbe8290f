#include <string>
#include <string_view>
#include <vector>

#include "services/engine/chat_template.h"

namespace {

using lola::engine::ChatMessage;
using lola::engine::ChatText;
using lola::engine::TextRange;

// Parts that the template wrote lie in the text, in order, and hold nothing of what people typed.
void Check(const ChatText& chat) {
  size_t done = 0;
  for (const TextRange& range : chat.control) {
    if (range.begin < done || range.end < range.begin || range.end > chat.text.size()) {
      __builtin_trap();
    }
    const std::string_view ours(chat.text.data() + range.begin, range.end - range.begin);
    if (ours.find('\x07') != std::string_view::npos) __builtin_trap();
    done = range.end;
  }
}

}  // namespace

// The bytes as a tokenizer_config.json, as a chat_template.jinja, and as what people type.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)lola::engine::ChatTemplate::Parse(bytes);
  if (bytes.find('\x07') != std::string_view::npos) return 0;  // the mark of what people typed
  const auto chat =
      lola::engine::ChatTemplate::Parse(R"({"bos_token":"<s>","eos_token":"</s>"})", bytes);
  if (!chat.ok() || !chat->has_value()) return 0;
  const std::string typed = "\x07 " + std::string(bytes.substr(size / 2)) + " \x07\xE3\x80";
  const std::vector<ChatMessage> turns = {
      {"system", typed}, {"user", typed}, {"assistant", typed}, {"user", "\xE3\x80"}};
  for (size_t first : {0, 1, 3}) {
    const auto text = (*chat)->Begin({turns.begin() + first, turns.end()}, "2026-11-21");
    if (text.ok()) Check(*text);
  }
  Check((*chat)->Next(typed));
  return 0;
}
