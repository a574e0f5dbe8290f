#include "kernels/core/cpu.h"

#include <algorithm>

#include "hwy/highway.h"
#include "kernels/core/check.h"

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

// By LimitInstructionClass, before anything else runs.
bool tiles_given_up = false, bf16_dot_given_up = false;
bool class_is_known = false;

bool MachineHasBf16Dot() {
  return (ReadLeaf7(1).eax & (1u << 5)) != 0;  // AVX512_BF16
}

bool MachineHasBf16Tiles() {
  constexpr unsigned kTiles = (1u << 22) | (1u << 24);  // AMX-BF16, AMX-TILE
  static const bool has =
      MachineHasBf16Dot() && (ReadLeaf7(0).edx & kTiles) == kTiles && AskForTiles();
  return has;
}

// Of the targets the kernels are compiled for (see kernels/CMakeLists.txt), best first.
std::vector<std::string_view> DetectClasses() {
  const int64_t targets = hwy::SupportedTargets();
  std::vector<std::string_view> classes;
  if (MachineHasBf16Tiles() && !tiles_given_up) classes.push_back("amxbf16");
  if (MachineHasBf16Dot() && !bf16_dot_given_up) classes.push_back("avx512bf16");
  if (targets & HWY_AVX3) classes.push_back("avx512");
  if (targets & HWY_AVX2) classes.push_back("avx2");
  if (targets & HWY_NEON) classes.push_back("neon");
#if defined(__x86_64__)
  classes.push_back("scalar");
#else
  if (classes.empty()) classes.push_back("scalar");
#endif
  return classes;
}

}  // namespace

bool HasBf16Dot() {
  static const bool has = MachineHasBf16Dot() && !bf16_dot_given_up;
  return has;
}

bool HasBf16Tiles() {
  static const bool has = MachineHasBf16Tiles() && !tiles_given_up;
  return has;
}

bool HasInt8Dot() {
  static const bool has = (ReadLeaf7(0).ecx & (1u << 11)) != 0;  // AVX512_VNNI
  return has;
}

std::vector<std::string_view> InstructionClasses() { return DetectClasses(); }

bool LimitInstructionClass(std::string_view name) {
  LOLA_CHECK(!class_is_known) << "the kernels may have run already";
  const std::vector<std::string_view> classes = DetectClasses();
  if (std::find(classes.begin(), classes.end(), name) == classes.end()) return false;
  tiles_given_up = name != "amxbf16";
  bf16_dot_given_up = tiles_given_up && name != "avx512bf16";
#if defined(__x86_64__)
  // Better targets have lower bits.
  if (name == "avx2") hwy::DisableTargets(HWY_AVX2 - 1);
  if (name == "scalar") hwy::DisableTargets(HWY_AVX2 | (HWY_AVX2 - 1));
#endif
  return true;
}

std::string_view InstructionClass() {
  static const std::string_view name = [] {
    class_is_known = true;
    return DetectClasses().front();
  }();
  return name;
}

}  // namespace lola::kernels
