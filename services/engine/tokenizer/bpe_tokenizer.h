// Tokenizers of real checkpoints: a tokenizer.json with a BPE model, in its two common forms.
//
//   "byte-level-bpe"      Llama 3, GPT-2, Mistral Nemo: pattern split, bytes, merges
//   "sentencepiece-bpe"   Llama 2, Mistral: spaces become a sign, merges, <0xNN> for the rest
//
//   text -> added tokens -> normalizer -> normalized added tokens -> pre-tokenizer -> BpeModel
//
// Equal to Hugging Face tokenizers id by id, with two deliberate differences: control tokens are
// found only where the caller says (EncodeOptions), and no merge leads to one.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_BPE_TOKENIZER_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_BPE_TOKENIZER_H_

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "services/engine/json_reader.h"
#include "services/engine/tokenizer.h"
#include "services/engine/tokenizer/added_tokens.h"
#include "services/engine/tokenizer/bpe_model.h"
#include "services/engine/tokenizer/normalizer.h"
#include "services/engine/tokenizer/pre_tokenizer.h"

namespace lola::engine {

class BpeTokenizer final : public Tokenizer {
 public:
  // A parsed tokenizer.json whose model is a BPE.
  static absl::StatusOr<std::unique_ptr<BpeTokenizer>> Parse(const Json& root);

  size_t size() const override { return bytes_.size(); }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  using Tokenizer::Encode;
  std::string_view TokenBytes(int32_t id) const override;
  std::optional<int32_t> SpecialId(std::string_view name) const override;
  bool marks_start() const override { return marks_start_; }
  bool drops_leading_space() const override { return drops_leading_space_; }
  std::string_view kind() const override {
    return cutter_.byte_level() ? "byte-level-bpe" : "sentencepiece-bpe";
  }

 private:
  BpeTokenizer(Normalizer normalizer, PreTokenizer cutter, BpeModel bpe, AddedTokens added)
      : normalizer_(std::move(normalizer)),
        cutter_(std::move(cutter)),
        bpe_(std::move(bpe)),
        added_(std::move(added)) {}

  // Text between added tokens that are looked for in the text as it came; it begins at `offset`.
  absl::Status EncodeRaw(std::string_view text, size_t offset, const EncodeOptions& options,
                         std::vector<int32_t>* ids) const;
  // Normalized text without any added token.
  absl::Status EncodeWords(std::string_view text, PreTokenizer::Place place,
                           std::vector<int32_t>* ids) const;
  void EncodeCut(std::string_view word, std::vector<int32_t>* ids) const;

  absl::Status ReadDecoder(const Json& root);
  absl::Status FillBytes();

  const Normalizer normalizer_;
  const PreTokenizer cutter_;
  const BpeModel bpe_;
  const AddedTokens added_;
  std::string space_sign_;  // stands for a space in tokens; empty for byte-level
  bool cuts_at_sign_ = false;
  bool marks_start_ = false;
  bool drops_leading_space_ = false;
  std::vector<std::string> bytes_;  // id -> what it stands for in text
  std::map<std::string, int32_t, std::less<>> specials_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_BPE_TOKENIZER_H_
