// The pieces that kernels are made of: matrix units, operands from memory, 8-bit floats, products
// with int8 weights. Each is held against plain loops or against the CPU's kernel.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/core/bf16.h"
#include "kernels/core/float8.h"
#include "kernels/cuda/cache_rows.cuh"
#include "kernels/cuda/device.h"
#include "kernels/cuda/emulation/grid.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/gemm/gemm.h"

namespace lola::cuda {
namespace {

std::vector<float> RandomFloats(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

float Rounded(float value) { return kernels::ToFloat(kernels::ToBFloat16(value)); }

TEST(MatrixUnits, Bf16TileIsItsProduct) {
  const std::vector<float> a = RandomFloats(16 * 16, 1), b = RandomFloats(16 * 8, 2);
  std::vector<float> d(16 * 8);
  emulation::RunGrid({1, 1, 1}, 32, 0, [&] {
    const unsigned g = ThreadX() / 4, t = ThreadX() % 4;
    const auto pair_a = [&](unsigned row, unsigned k) {
      return RoundPair(a[row * 16 + k], a[row * 16 + k + 1]);
    };
    const auto pair_b = [&](unsigned k) { return RoundPair(b[k * 8 + g], b[(k + 1) * 8 + g]); };
    const uint32_t x[4] = {pair_a(g, 2 * t), pair_a(g + 8, 2 * t), pair_a(g, 2 * t + 8),
                           pair_a(g + 8, 2 * t + 8)};
    const uint32_t y[2] = {pair_b(2 * t), pair_b(2 * t + 8)};
    float sums[4] = {1, 2, 3, 4};
    MmaBf16(sums, x, y);
    for (unsigned i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
  });
  for (unsigned row = 0; row < 16; ++row) {
    for (unsigned column = 0; column < 8; ++column) {
      double want = 1 + row / 8 * 2 + column % 2;
      for (unsigned k = 0; k < 16; ++k) {
        want += double(Rounded(a[row * 16 + k])) * Rounded(b[k * 8 + column]);
      }
      EXPECT_NEAR(d[row * 8 + column], want, 1e-6) << row << ", " << column;
    }
  }
}

// W elements wide, rows `stride` apart in memory, k positions of which `live` exist.
template <typename T, unsigned W>
void CheckStrips(double tolerance) {
  constexpr unsigned kK = 32, kLive = 27, kM = 8 * W;
  const std::vector<float> from = RandomFloats(kK * kM, 3), with = RandomFloats(kK * kColumns, 4);
  std::vector<T> stored(kK * kM);
  for (size_t i = 0; i < stored.size(); ++i) {
    if constexpr (std::is_same_v<T, Fp8>) {
      stored[i] = ToFp8(from[i]);
    } else {
      Put(stored[i], from[i]);
    }
  }
  std::vector<float> d(kM * kColumns);
  emulation::RunGrid({1, 1, 1}, 32, PanelWords(kColumns, kK) * 4, [&] {
    const Panel panel{reinterpret_cast<uint32_t*>(SharedBytes()), PanelStride(kK), kColumns};
    for (unsigned i = ThreadX(); i < kK * kColumns; i += 32) {
      PutElement(panel, i % kColumns, i / kColumns, with[i]);
    }
    SyncThreads();
    float sums[W / 2][1][4] = {};
    for (unsigned step = 0; step < kK / kStepK; ++step) {
      Strip<W> strip;
      LoadStrip<T, W>(stored.data() + (step * kStepK + LaneOfGroup()) * kM + LaneGroup() * W, kM,
                      kLive > step * kStepK ? kLive - step * kStepK : 0, strip);
      MultiplyStrip<T, W, 1>(strip, panel, 0, step, 1, sums);
    }
    for (unsigned tile = 0; tile < W / 2; ++tile) {
      for (unsigned i = 0; i < 4; ++i) {
        d[SumElement<W>(tile, i) * kColumns + SumColumn(0, i)] = sums[tile][0][i];
      }
    }
  });
  for (unsigned m = 0; m < kM; ++m) {
    for (unsigned column = 0; column < kColumns; ++column) {
      double want = 0, size = 0;
      for (unsigned k = 0; k < kLive; ++k) {
        const double product = double(ToFloat(stored[k * kM + m])) * with[k * kColumns + column];
        want += product;
        size += std::fabs(product);
      }
      EXPECT_NEAR(d[m * kColumns + column], want, tolerance * size) << m << ", " << column;
    }
  }
}

// Split operands: 3 * 2^-18 of every product, with bfloat16 on one side 2^-18 (mma.h).
TEST(MatrixUnits, StripsOfMemoryAreOperands) {
  CheckStrips<float, 8>(0x3p-18);
  CheckStrips<float, 4>(0x3p-18);
  CheckStrips<float, 2>(0x3p-18);
  CheckStrips<Bf16, 8>(0x1p-17);
  CheckStrips<Bf16, 4>(0x1p-17);
  CheckStrips<Bf16, 2>(0x1p-17);
  CheckStrips<Fp8, 8>(0x1p-17);
  CheckStrips<Fp8, 4>(0x1p-17);
  CheckStrips<Fp8, 2>(0x1p-17);
}

TEST(MatrixUnits, WordsAndElementsFillAPanelAlike) {
  constexpr unsigned kK = 64;
  const std::vector<float> values = RandomFloats(kK, 5);
  bool same = false;
  emulation::RunGrid({1, 1, 1}, 1, 2 * PanelWords(8, kK) * 4, [&] {
    uint32_t* words = reinterpret_cast<uint32_t*>(SharedBytes());
    const Panel a{words, PanelStride(kK), 8}, b{words + PanelWords(8, kK), PanelStride(kK), 8};
    for (unsigned k = 0; k < kK; ++k) PutElement(a, 3, k, values[k]);
    for (unsigned word = 0; word < kK / 2; ++word) {
      const unsigned k = PanelPosition(word);
      PutWord(b, 3, word, values[k], values[k + 4]);
    }
    const size_t at = 3 * a.stride;
    same = std::memcmp(a.words + at, b.words + at, kK / 2 * 4) == 0 &&
           std::memcmp(a.Low() + at, b.Low() + at, kK / 2 * 4) == 0;
  });
  EXPECT_TRUE(same);
}

TEST(DeviceFloat8, IsTheCpus) {
  for (int bits = 0; bits < 256; ++bits) {
    const float want = kernels::ToFloat(kernels::Float8{uint8_t(bits)});
    const float got = ToFloat(Fp8{uint8_t(bits)});
    EXPECT_EQ(FloatBits(got), FloatBits(want)) << bits;
  }
  std::mt19937_64 random(6);
  for (int i = 0; i < 200000; ++i) {
    const float value = std::ldexp(float(int64_t(random())), int(random() % 30) - 78);
    if (!(std::fabs(value) <= 464.0f)) continue;
    ASSERT_EQ(ToFp8(value).bits, kernels::ToFloat8(value).bits) << value;
  }
  for (int i = 0; i < 200000; ++i) {
    const float value = BitsToFloat(uint32_t(random()) & 0x7fffffffu);
    const bool finite = std::isfinite(value);
    ASSERT_EQ(RowExponent(value, finite), kernels::RowExponent(&value, 1)) << value;
  }
  for (uint32_t bytes = 0; bytes < 65536; ++bytes) {
    if ((bytes & 0x7f) == 0x7f || (bytes & 0x7f00) == 0x7f00) continue;  // NaN: never stored
    const uint32_t word = ToBf16Pair(bytes);
    ASSERT_EQ(FloatBits(ToFloat(Fp8{uint8_t(bytes)})), word << 16) << bytes;
    ASSERT_EQ(FloatBits(ToFloat(Fp8{uint8_t(bytes >> 8)})), word & 0xffff0000u) << bytes;
  }
  for (int exponent = -128; exponent < 128; ++exponent) {
    ASSERT_EQ(FloatBits(RowScale(exponent)), FloatBits(kernels::RowScale(int8_t(exponent))));
  }
}

// Packs like device_weights.cc does, from what the CPU's matrix shows of itself.
TEST(Int8Products, AreTheCpusToTheBit) {
  kernels::ThreadPool pool(1);
  const struct {
    size_t rows, out, in;
  } shapes[] = {{1, 64, 64}, {3, 33, 80}, {8, 130, 256}, {9, 16, 100}, {40, 70, 192}, {70, 64, 64}};
  for (const auto& [rows, out, in] : shapes) {
    const std::vector<float> w = RandomFloats(out * in, out), x = RandomFloats(rows * in, in);
    const auto packed = kernels::PackedMatrix::Pack(w, out, in, kernels::Dtype::kInt8);
    const size_t stride = MatrixRowBytes(MatrixType::kInt8, in);
    std::vector<int8_t> q(out * stride);
    std::vector<float> scales(out);
    for (size_t o = 0; o < out; ++o) {
      float largest = 0;
      for (size_t i = 0; i < in; ++i) largest = std::max(largest, std::fabs(w[o * in + i]));
      scales[o] = largest / 127.0f;
      for (size_t i = 0; i < in; ++i) {
        q[o * stride + i] = int8_t(std::lround(packed.At(o, i) / scales[o]));
      }
    }
    for (const bool accumulate : {false, true}) {
      std::vector<float> want(rows * out, 0.25f), got = want;
      kernels::Gemm({.weights = &packed,
                     .input = x.data(),
                     .input_stride = in,
                     .output = want.data(),
                     .output_stride = out,
                     .rows = rows,
                     .accumulate = accumulate},
                    pool);
      std::unique_ptr<Device> device(NewEmulatedDevice(uint64_t{1} << 24));
      std::vector<uint32_t> work(QuantizedBytes(rows, in) / 4 + 1);
      device->Gemm({.type = MatrixType::kInt8,
                    .weights = q.data(),
                    .scales = scales.data(),
                    .work = work.data(),
                    .input = x.data(),
                    .output = got.data(),
                    .rows = rows,
                    .out = out,
                    .in = in,
                    .accumulate = accumulate});
      device->WaitOnHost(device->Record(Queue::kCompute));
      EXPECT_EQ(got, want) << rows << " x " << out << " x " << in;
    }
  }
}

// Rows of float8 weights as device_weights.cc makes them, and bfloat16 inputs.
struct Float8Case {
  Float8Case(size_t rows, size_t out, size_t in)
      : rows(rows),
        out(out),
        in(in),
        x(rows * in),
        q(out * MatrixRowBytes(MatrixType::kFloat8, in)) {
    const std::vector<float> w = RandomFloats(out * in, out), inputs = RandomFloats(rows * in, in);
    packed = kernels::PackedMatrix::Pack(w, out, in, kernels::Dtype::kFloat8);
    values.resize(out * in);
    for (size_t o = 0; o < out; ++o) {
      packed.CopyRow(o, &values[o * in]);
      const int8_t exponent = kernels::RowExponent(&values[o * in], in);
      scales.push_back(kernels::RowScale(exponent));
      for (size_t i = 0; i < in; ++i) {
        q[o * q.size() / out + i] = kernels::ToFloat8(values[o * in + i] / scales[o]).bits;
      }
    }
    for (size_t i = 0; i < x.size(); ++i) Put(x[i], inputs[i]);
  }
  std::vector<float> Run(size_t first, size_t count, bool accumulate) const {
    std::vector<float> got(count * out, 0.25f);
    std::unique_ptr<Device> device(NewEmulatedDevice(uint64_t{1} << 24));
    device->Gemm({.type = MatrixType::kFloat8,
                  .weights = q.data(),
                  .scales = scales.data(),
                  .input = x.data() + first * in,
                  .output = got.data(),
                  .rows = count,
                  .out = out,
                  .in = in,
                  .accumulate = accumulate});
    device->WaitOnHost(device->Record(Queue::kCompute));
    return got;
  }

  size_t rows, out, in;
  std::vector<Bf16> x;
  std::vector<uint8_t> q;
  std::vector<float> scales, values;
  kernels::PackedMatrix packed;
};

// Products are exact and a sum of `in` of them rounds at most once each: in * 2^-24 of the sum of
// sizes. The CPU, which adds in another order, is within twice that.
TEST(Float8Products, AreTheCpusButForTheOrderOfSums) {
  kernels::ThreadPool pool(1);
  const struct {
    size_t rows, out, in;
  } shapes[] = {{1, 33, 64},   {3, 64, 80},    {8, 70, 640},
                {20, 33, 100}, {70, 130, 200}, {130, 16, 33}};
  for (const auto& [rows, out, in] : shapes) {
    const Float8Case c(rows, out, in);
    std::vector<float> inputs(rows * in), cpu(rows * out, 0.25f);
    for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = ToFloat(c.x[i]);
    kernels::Gemm({&c.packed, inputs.data(), in, cpu.data(), out, rows, true}, pool);
    const std::vector<float> got = c.Run(0, rows, true), plain = c.Run(0, rows, false);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t o = 0; o < out; ++o) {
        double want = 0, size = 0;
        for (size_t i = 0; i < in; ++i) {
          const double product = double(inputs[r * in + i]) * c.values[o * in + i];
          want += product;
          size += std::fabs(product);
        }
        const double bound = size * double(in) * 0x1p-24;
        EXPECT_NEAR(plain[r * out + o], want, bound) << rows << " x " << out << " x " << in;
        EXPECT_EQ(got[r * out + o], 0.25f + plain[r * out + o]);
        EXPECT_NEAR(got[r * out + o], cpu[r * out + o], 2 * bound + 1e-6);
      }
    }
  }
}

// P2: one bit pattern in the kernel for few rows, with one tile and with four, and in the one for
// many.
TEST(Float8Products, DoNotDependOnTheNumberOfRows) {
  const Float8Case c(150, 140, 1000);
  const std::vector<float> all = c.Run(0, c.rows, false);
  for (const auto& [first, count] :
       {std::pair<size_t, size_t>{0, 1}, {3, 8}, {20, 9}, {60, 40}, {77, 73}, {149, 1}}) {
    const std::vector<float> some = c.Run(first, count, false);
    EXPECT_EQ(std::memcmp(some.data(), &all[first * c.out], some.size() * sizeof(float)), 0)
        << "rows " << first << " + " << count;
  }
}

}  // namespace
}  // namespace lola::cuda
