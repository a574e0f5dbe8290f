#include <string>
#include <string_view>

#include "services/engine/tokenizer.h"

namespace {

// A file that was taken must encode any valid text to ids it knows, in every way of asking.
void Use(const lola::engine::Tokenizer& tokenizer) {
  const std::string text =
      "<s> It's  \xE2\x82\xAC 12345\n\n<|eot_id|>\xF0\x9F\x98\x80 state\t[INST]";
  for (const bool starts : {false, true}) {
    for (const size_t control : {size_t{0}, text.size()}) {
      const auto ids = tokenizer.Encode(text, {starts, {{0, control}}});
      if (!ids.ok()) continue;
      for (const int32_t id : *ids) {
        if (id < 0 || static_cast<size_t>(id) >= tokenizer.size()) __builtin_trap();
      }
      if (!lola::engine::CheckUtf8(DecodeAll(tokenizer, *ids), "text").ok()) __builtin_trap();
    }
  }
}

}  // namespace

// The bytes as a tokenizer.json, and as model output: decoded text is always valid UTF-8.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = lola::engine::ParseTokenizer(text);
  if (tokenizer.ok()) Use(**tokenizer);
  lola::engine::TextDecoder decoder;
  std::string decoded;
  for (size_t i = 0; i < size; i += 3) decoded += decoder.Push(text.substr(i, 3));
  decoded += decoder.Finish();
  if (!lola::engine::CheckUtf8(decoded, "text").ok()) __builtin_trap();
  if (lola::engine::CheckUtf8(text, "text").ok() && decoded != text) __builtin_trap();
  return 0;
}
