#include "services/engine/runtime/arithmetic.h"

#include <utility>

namespace lola::engine {

void AddClass(Classes& classes, std::string_view name) {
  if (name.empty()) name = kUnknownClass;
  if (!classes.empty() && classes.back() == name) return;
  std::string newest(name);  // `name` may be one of them
  std::erase(classes, newest);
  classes.push_back(std::move(newest));
}

Continuation JudgeContinuation(std::span<const std::string> computed_by, std::string_view own) {
  if (!computed_by.empty() && own.find(kVaryingMark) != std::string_view::npos) {
    return Continuation::kTolerance;
  }
  Continuation judged = Continuation::kExact;
  for (const std::string& one : computed_by) {
    if (one == own) continue;
    if (one != kUnknownClass) return Continuation::kTolerance;
    judged = Continuation::kUnknown;
  }
  return judged;
}

}  // namespace lola::engine
