// The tokenizer whose tokens are single bytes: a tokenizer.json of model type BPE over the 256
// bytes in the usual printable spelling of byte-level vocabularies, without merges, plus added
// tokens.
#ifndef LOLA_SERVICES_ENGINE_BYTE_TOKENIZER_H_
#define LOLA_SERVICES_ENGINE_BYTE_TOKENIZER_H_

#include <array>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "services/engine/tokenizer.h"

namespace lola::engine {

class ByteTokenizer final : public Tokenizer {
 public:
  // A parsed tokenizer.json, which is an object.
  static absl::StatusOr<std::unique_ptr<ByteTokenizer>> Parse(const nlohmann::json& root);
  static std::unique_ptr<ByteTokenizer> Standard();

  size_t size() const override { return bytes_.size(); }
  // Control tokens have no spelling here: the options change nothing.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  using Tokenizer::Encode;
  std::string_view TokenBytes(int32_t id) const override;
  std::optional<int32_t> SpecialId(std::string_view name) const override;
  std::string_view kind() const override { return "byte-level"; }

 private:
  std::array<int32_t, 256> ids_{};  // byte -> id
  std::vector<std::string> bytes_;  // id -> bytes; empty for specials and gaps
  std::map<std::string, int32_t, std::less<>> specials_;
};

// The printable character (as UTF-8) that byte-level vocabularies use for a byte.
std::string PrintableByte(uint8_t byte);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_BYTE_TOKENIZER_H_
