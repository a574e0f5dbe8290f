// Tokens a tokenizer puts in front of a sequence: <s>, <|begin_of_text|>. Any thread may call.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_SEQUENCE_PREFIX_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_SEQUENCE_PREFIX_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/json_reader.h"
#include "services/engine/tokenizer.h"

namespace lola::engine {

// By the `post_processor` of a tokenizer.json: special tokens before the sequence in a
// TemplateProcessing, nothing for ByteLevel. UNIMPLEMENTED naming other types.
absl::StatusOr<std::vector<int32_t>> ReadSequencePrefix(const Json& root);

// By tokenizer_config.json, which wins when it says `add_bos_token`. Nothing when it does not.
absl::StatusOr<std::optional<std::vector<int32_t>>> ReadConfiguredPrefix(
    const Json& config, const Tokenizer& tokenizer);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_SEQUENCE_PREFIX_H_
