// Any bytes are either refused or a block that encodes and decodes to the same tokens.
#include <cstdlib>

#include "memory/store/token_block.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokens = lola::store::DecodeBlock({reinterpret_cast<const char*>(data), size});
  if (!tokens.ok()) {
    if (!absl::IsDataLoss(tokens.status())) std::abort();
    return 0;
  }
  if (tokens->size() > lola::store::kBlockTokens) std::abort();
  const auto again = lola::store::DecodeBlock(lola::store::EncodeBlock(*tokens));
  if (!again.ok() || *again != *tokens) std::abort();
  return 0;
}
