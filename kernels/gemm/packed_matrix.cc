#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/float8.h"
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

// Every row of `in` values as float8 holds it.
std::vector<float> RoundedToFloat8(std::span<const float> rows, size_t in) {
  std::vector<float> rounded(rows.size());
  for (size_t begin = 0; begin < rows.size(); begin += in) {
    const int8_t exponent = RowExponent(rows.data() + begin, in);
    const float down = RowScale(static_cast<int8_t>(-exponent)), up = RowScale(exponent);
    for (size_t i = begin; i < begin + in; ++i) rounded[i] = ToFloat(ToFloat8(rows[i] * down)) * up;
  }
  return rounded;
}

}  // namespace

void PackedMatrix::Free::operator()(std::byte* data) const { std::free(data); }

size_t PackedMatrix::PanelBytes(size_t in, Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32:
      return in * kPanelOutputs * sizeof(float);
    case Dtype::kBFloat16:
    case Dtype::kFloat8:  // kept as bfloat16, which holds them
      return (in + 1) / 2 * 2 * kPanelOutputs * sizeof(BFloat16);
    case Dtype::kInt8:
      break;
  }
  return (in + kInt8Group - 1) / kInt8Group * kInt8Group * kPanelOutputs +
         kPanelOutputs * sizeof(float);
}

size_t PackedMatrix::PackedBytes(size_t out, size_t in, Dtype dtype) {
  return (out + kPanelOutputs - 1) / kPanelOutputs * PanelBytes(in, dtype);
}

PackedMatrix PackedMatrix::Zeros(size_t out, size_t in, Dtype dtype) {
  LOLA_CHECK(out > 0 && in > 0) << "out " << out << " in " << in;
  PackedMatrix packed;
  packed.out_ = out;
  packed.in_ = in;
  packed.dtype_ = dtype;
  packed.data_.reset(AllocateAligned(packed.bytes()));  // int8: scales of zero
  return packed;
}

PackedMatrix PackedMatrix::Pack(std::span<const float> source, size_t out, size_t in, Dtype dtype) {
  LOLA_CHECK_EQ(source.size(), out * in);
  PackedMatrix packed = Zeros(out, in, dtype);
  packed.SetRows(0, source);
  return packed;
}

void PackedMatrix::SetInt8Row(size_t output, const float* row) {
  float largest = 0.0f;
  for (size_t i = 0; i < in_; ++i) largest = std::max(largest, std::fabs(row[i]));
  const float scale = largest / 127.0f;
  std::byte* panel = MutablePanel(output / kPanelOutputs);
  const size_t lane = output % kPanelOutputs;
  std::memcpy(panel + panel_bytes() - (kPanelOutputs - lane) * sizeof(float), &scale,
              sizeof(scale));
  auto* bytes = reinterpret_cast<uint8_t*>(panel);
  for (size_t i = 0; i < in_; ++i) {
    const float q = scale > 0.0f ? std::nearbyint(row[i] / scale) : 0.0f;
    bytes[(i / 4 * kPanelOutputs + lane) * 4 + i % 4] =
        static_cast<uint8_t>(128 + static_cast<int>(std::clamp(q, -127.0f, 127.0f)));
  }
}

void PackedMatrix::SetRows(size_t first_row, std::span<const float> rows) {
  LOLA_CHECK(rows.size() % in_ == 0 && first_row + rows.size() / in_ <= out_)
      << "rows from " << first_row << ", " << rows.size() << " values, matrix " << out_ << " x "
      << in_;
  std::vector<float> rounded;
  if (dtype_ == Dtype::kFloat8) rows = rounded = RoundedToFloat8(rows, in_);
  constexpr size_t kInputs = 64;  // of all lanes before the next ones: the panel's part stays near
  const size_t end = first_row + rows.size() / in_;
  for (size_t begin = first_row; begin < end;) {
    const size_t stop = std::min(end, (begin / kPanelOutputs + 1) * kPanelOutputs);
    const float* source = rows.data() + (begin - first_row) * in_;
    std::byte* panel = MutablePanel(begin / kPanelOutputs);
    for (size_t i0 = 0; i0 < in_ && dtype_ != Dtype::kInt8; i0 += kInputs) {
      for (size_t o = begin; o < stop; ++o) {
        const size_t lane = o % kPanelOutputs;
        const float* row = source + (o - begin) * in_;
        for (size_t i = i0; i < std::min(in_, i0 + kInputs); ++i) {
          if (dtype_ == Dtype::kFloat32) {
            reinterpret_cast<float*>(panel)[i * kPanelOutputs + lane] = row[i];
          } else {
            reinterpret_cast<BFloat16*>(panel)[(i / 2 * kPanelOutputs + lane) * 2 + i % 2] =
                ToBFloat16(row[i]);
          }
        }
      }
    }
    for (size_t o = begin; o < stop && dtype_ == Dtype::kInt8; ++o) {
      SetInt8Row(o, source + (o - begin) * in_);
    }
    begin = stop;
  }
}

void PackedMatrix::CopyRow(size_t output, float* row) const {
  LOLA_CHECK(output < out_) << output;
  const std::byte* data = panel(output / kPanelOutputs);
  const size_t lane = output % kPanelOutputs;
  float scale = 0.0f;
  if (dtype_ == Dtype::kInt8) {
    std::memcpy(&scale, data + panel_bytes() - (kPanelOutputs - lane) * sizeof(float),
                sizeof(scale));
  }
  for (size_t i = 0; i < in_; ++i) {
    if (dtype_ == Dtype::kFloat32) {
      row[i] = reinterpret_cast<const float*>(data)[i * kPanelOutputs + lane];
    } else if (dtype_ != Dtype::kInt8) {
      row[i] = ToFloat(
          reinterpret_cast<const BFloat16*>(data)[(i / 2 * kPanelOutputs + lane) * 2 + i % 2]);
    } else {
      const int q = std::to_integer<int>(data[(i / 4 * kPanelOutputs + lane) * 4 + i % 4]) - 128;
      row[i] = static_cast<float>(q) * scale;
    }
  }
}

float PackedMatrix::At(size_t output, size_t input) const {
  LOLA_CHECK(output < out_ && input < in_) << output << ", " << input;
  std::vector<float> row(in_);
  CopyRow(output, row.data());
  return row[input];
}

}  // namespace lola::kernels
