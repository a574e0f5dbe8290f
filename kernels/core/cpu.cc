#include "kernels/core/cpu.h"

#include "hwy/highway.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace lola::kernels {
namespace {

// AVX-512 BF16: CPUID leaf 7, subleaf 1, EAX bit 5. Highway's answer already includes that the
// system saves the wide registers.
bool DetectBf16Dot() {
#if defined(__x86_64__)
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) return false;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (eax & (1u << 5)) != 0;
#else
  return false;
#endif
}

// The best of the targets the kernels are compiled for (see kernels/CMakeLists.txt).
std::string_view DetectClass() {
  const int64_t targets = hwy::SupportedTargets();
  if (HasBf16Dot()) return "avx512bf16";
  if (targets & HWY_AVX3) return "avx512";
  if (targets & HWY_AVX2) return "avx2";
  if (targets & HWY_NEON) return "neon";
  return "scalar";
}

}  // namespace

bool HasBf16Dot() {
  static const bool has = DetectBf16Dot();
  return has;
}

std::string_view InstructionClass() {
  static const std::string_view name = DetectClass();
  return name;
}

}  // namespace lola::kernels
