#ifndef LOLA_MEMORY_ENV_RANDOM_H_
#define LOLA_MEMORY_ENV_RANDOM_H_

// Identifiers that are unique over all time and machines. Any thread.

#include <string>

namespace lola::memory {

// 32 lower-case hexadecimal digits: 128 bits from the operating system's random source.
std::string NewUid();

}  // namespace lola::memory

#endif  // LOLA_MEMORY_ENV_RANDOM_H_
