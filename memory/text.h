// Bridges to Abseil's own string view, which in distribution builds is not std::string_view.
#ifndef LOLA_MEMORY_TEXT_H_
#define LOLA_MEMORY_TEXT_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace lola {

inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view ToStd(absl::string_view text) { return {text.data(), text.size()}; }

}  // namespace lola

#endif  // LOLA_MEMORY_TEXT_H_
