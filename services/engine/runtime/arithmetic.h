// Who computed a state. States are the same bytes everywhere, but what is computed from them has
// the same bits within one instruction class only (ModelRunner::instruction_class): another class
// agrees to rounding error. So every snapshot says which classes took part, and a stream that comes
// to a worker is told whether it goes on bit for bit. Pure functions, any thread.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_ARITHMETIC_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_ARITHMETIC_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lola::engine {

// Stands for a class that nobody wrote down.
inline constexpr std::string_view kUnknownClass = "unknown";
// In the name of a class whose bits depend on what else is in the batch: GPUs with
// --batch-invariant=false. Nothing goes on exactly there.
inline constexpr std::string_view kVaryingMark = "-fast";

// Classes that took part, each once, the newest last.
using Classes = std::vector<std::string>;
// Makes `name` the newest; empty counts as unknown.
void AddClass(Classes& classes, std::string_view name);

enum class Continuation : uint8_t {
  kUnknown,    // some of it was computed by nobody knows what
  kExact,      // bit for bit as where it comes from
  kTolerance,  // another class computed some of it, or the own one varies
};
// Of a worker of class `own` that goes on from what `computed_by` computed. Exact when there is
// nothing yet.
Continuation JudgeContinuation(std::span<const std::string> computed_by, std::string_view own);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_ARITHMETIC_H_
