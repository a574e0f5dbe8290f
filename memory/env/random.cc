#include "memory/env/random.h"

#include <sys/random.h>

#include <array>
#include <cstdio>
#include <cstdlib>

namespace lola::memory {

std::string NewUid() {
  std::array<unsigned char, 16> bytes;
  // Up to 256 bytes are never returned short once the source is ready.
  if (getrandom(bytes.data(), bytes.size(), 0) != ssize_t(bytes.size())) {
    std::perror("getrandom");
    std::abort();  // an identifier that may repeat would mix up two streams' data
  }
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace lola::memory
