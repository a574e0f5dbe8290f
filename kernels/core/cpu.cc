#include "kernels/core/cpu.h"

#include "hwy/highway.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lola::kernels {
namespace {

// CPUID leaf 7. Highway's answer already includes that the system saves the wide registers.
struct Leaf7 {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf7 ReadLeaf7([[maybe_unused]] unsigned subleaf) {
  Leaf7 leaf;
#if defined(__x86_64__)
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) return {};
  if (__get_cpuid_count(7, subleaf, &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx) == 0) return {};
#endif
  return leaf;
}

// The system saves tile data only for processes that have asked for it; threads inherit the answer.
bool AskForTiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, asm/prctl.h
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// The best of the targets the kernels are compiled for (see kernels/CMakeLists.txt).
std::string_view DetectClass() {
  const int64_t targets = hwy::SupportedTargets();
  if (HasBf16Tiles()) return "amxbf16";
  if (HasBf16Dot()) return "avx512bf16";
  if (targets & HWY_AVX3) return "avx512";
  if (targets & HWY_AVX2) return "avx2";
  if (targets & HWY_NEON) return "neon";
  return "scalar";
}

}  // namespace

bool HasBf16Dot() {
  static const bool has = (ReadLeaf7(1).eax & (1u << 5)) != 0;  // AVX512_BF16
  return has;
}

bool HasBf16Tiles() {
  constexpr unsigned kTiles = (1u << 22) | (1u << 24);  // AMX-BF16, AMX-TILE
  static const bool has = HasBf16Dot() && (ReadLeaf7(0).edx & kTiles) == kTiles && AskForTiles();
  return has;
}

bool HasInt8Dot() {
  static const bool has = (ReadLeaf7(0).ecx & (1u << 11)) != 0;  // AVX512_VNNI
  return has;
}

std::string_view InstructionClass() {
  static const std::string_view name = DetectClass();
  return name;
}

}  // namespace lola::kernels
