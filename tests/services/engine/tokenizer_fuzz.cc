#include <string>
#include <string_view>

#include "services/engine/tokenizer.h"

// The bytes as a tokenizer.json, and as model output: decoded text is always valid UTF-8.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)lola::engine::ParseTokenizer(text);
  lola::engine::TextDecoder decoder;
  std::string decoded;
  for (size_t i = 0; i < size; i += 3) decoded += decoder.Push(text.substr(i, 3));
  decoded += decoder.Finish();
  if (!lola::engine::CheckUtf8(decoded, "text").ok()) __builtin_trap();
  if (lola::engine::CheckUtf8(text, "text").ok() && decoded != text) __builtin_trap();
  return 0;
}
