// What this processor can do, as one word. Any thread; the answer never changes while running.
//
// Results are bit-identical within one instruction class and may differ between classes, so the
// class belongs into benchmark lines, worker descriptions and bug reports.
#ifndef LOLA_KERNELS_CORE_CPU_H_
#define LOLA_KERNELS_CORE_CPU_H_

#include <string_view>
#include <vector>

namespace lola::kernels {

// "amxbf16", "avx512bf16", "avx512", "avx2", "neon" or "scalar": what the kernels of
// this process actually use.
std::string_view InstructionClass();

// The classes this machine can run, best first.
std::vector<std::string_view> InstructionClasses();

// From here on the kernels use this class and nothing better, so that workers on machines of
// different kinds compute the same bits. False, with nothing changed, when the machine cannot run
// it. REQUIRES: before the first kernel and the first question above; one thread.
bool LimitInstructionClass(std::string_view name);

// True when the processor has its own bf16 dot instruction.
bool HasBf16Dot();

// True when it has matrix tiles for bf16 (AMX) and the system lends them to this process; bf16
// products use them then, before the dot instruction.
bool HasBf16Tiles();

// True when int8 matrix products use the processor's byte dot instruction. Their results do not
// depend on it: int8 products have the same bits in every instruction class.
bool HasInt8Dot();

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_CORE_CPU_H_
