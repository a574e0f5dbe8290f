#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "kernels/core/check.h"
#include "kernels/gemm/gemm.h"

namespace lola::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

std::byte* AllocateAligned(size_t bytes) {
  const size_t align = bytes >= 2 * kHugePage ? kHugePage : 64;
  const size_t size = (bytes + align - 1) / align * align;
  void* data = std::aligned_alloc(align, size);
  LOLA_CHECK(data != nullptr) << "no memory for " << bytes << " bytes of weights";
#if defined(__linux__)
  // Fewer address translations while streaming through the weights; failure changes nothing.
  if (align == kHugePage) (void)madvise(data, size, MADV_HUGEPAGE);
#endif
  std::memset(data, 0, size);
  return static_cast<std::byte*>(data);
}

}  // namespace

void PackedMatrix::Free::operator()(std::byte* data) const { std::free(data); }

template <typename Source>
PackedMatrix PackedMatrix::PackAny(std::span<const Source> source, size_t out, size_t in,
                                   Dtype dtype) {
  LOLA_CHECK(out > 0 && in > 0) << "out " << out << " in " << in;
  LOLA_CHECK_EQ(source.size(), out * in);
  PackedMatrix packed;
  packed.out_ = out;
  packed.in_ = in;
  packed.dtype_ = dtype;
  packed.data_.reset(AllocateAligned(packed.bytes()));
  for (size_t o = 0; o < out; ++o) {
    std::byte* panel = packed.data_.get() + o / kPanelOutputs * packed.panel_bytes();
    const size_t lane = o % kPanelOutputs;
    for (size_t i = 0; i < in; ++i) {
      const Source value = source[o * in + i];
      if (dtype == Dtype::kFloat32) {
        reinterpret_cast<float*>(panel)[i * kPanelOutputs + lane] = ToFloat(value);
      } else {
        reinterpret_cast<BFloat16*>(panel)[(i / 2 * kPanelOutputs + lane) * 2 + i % 2] =
            ToBFloat16(ToFloat(value));
      }
    }
  }
  return packed;
}

PackedMatrix PackedMatrix::Pack(std::span<const float> source, size_t out, size_t in, Dtype dtype) {
  return PackAny(source, out, in, dtype);
}

PackedMatrix PackedMatrix::Pack(std::span<const BFloat16> source, size_t out, size_t in,
                                Dtype dtype) {
  return PackAny(source, out, in, dtype);
}

float PackedMatrix::At(size_t output, size_t input) const {
  LOLA_CHECK(output < out_ && input < in_) << output << ", " << input;
  const std::byte* data = panel(output / kPanelOutputs);
  const size_t lane = output % kPanelOutputs;
  if (dtype_ == Dtype::kFloat32) {
    return reinterpret_cast<const float*>(data)[input * kPanelOutputs + lane];
  }
  return ToFloat(
      reinterpret_cast<const BFloat16*>(data)[(input / 2 * kPanelOutputs + lane) * 2 + input % 2]);
}

}  // namespace lola::kernels
