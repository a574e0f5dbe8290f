#include "kernels/gemm/gemm.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <tuple>

#include "kernels/core/float8.h"
#include "kernels/gemm/gemm_kernels.h"
#include "tests/kernels/kernel_test_util.h"

namespace lola::kernels {
namespace {

using test::Normal;
using test::WorstError;

// rows, in, out
using Shape = std::tuple<size_t, size_t, size_t>;

class GemmTest : public ::testing::TestWithParam<std::tuple<Shape, Dtype>> {};

TEST_P(GemmTest, AgreesWithTheReference) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, in, out] = shape;
  const std::vector<float> w = Normal(out * in, 1);
  const size_t in_stride = in + 5;
  const size_t out_stride = out + 3;
  const std::vector<float> x = Normal(rows * in_stride, 2);
  const PackedMatrix packed = PackedMatrix::Pack(w, out, in, dtype);
  ThreadPool pool(2);
  for (const bool accumulate : {false, true}) {
    std::vector<float> got = Normal(rows * out_stride, 3);
    std::vector<float> want = got;
    const GemmParams p{&packed, x.data(), in_stride, got.data(), out_stride, rows, accumulate};
    Gemm(p, pool);
    GemmParams ref = p;
    ref.output = want.data();
    GemmRef(ref);
    EXPECT_LE(WorstError(got, want), 2e-7 * static_cast<double>(in) * 12 + 1e-5);
  }
}

TEST_P(GemmTest, ARowDependsNeitherOnItsPlaceNorOnThreads) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, in, out] = shape;
  const PackedMatrix packed = PackedMatrix::Pack(Normal(out * in, 1), out, in, dtype);
  const std::vector<float> x = Normal(rows * in, 2);
  std::vector<float> all(rows * out);
  ThreadPool one(1);
  ThreadPool three(3);
  Gemm({&packed, x.data(), in, all.data(), out, rows, false}, three);
  for (size_t begin = 0; begin < rows;) {
    const size_t count = std::min(rows - begin, begin % 5 + 1);
    std::vector<float> some(count * out);
    Gemm({&packed, x.data() + begin * in, in, some.data(), out, count, false}, one);
    ASSERT_TRUE(test::SameBits(some.data(), all.data() + begin * out, count * out))
        << "rows " << begin << " .. " << begin + count;
    begin += count;
  }
}

std::string CaseName(const ::testing::TestParamInfo<std::tuple<Shape, Dtype>>& info) {
  const auto [rows, in, out] = std::get<0>(info.param);
  return std::to_string(rows) + "x" + std::to_string(in) + "x" + std::to_string(out) + "_" +
         DtypeName(std::get<1>(info.param));
}

const Shape kShapes[] = {{1, 128, 384}, {64, 128, 384}, {1, 1, 1},      {2, 7, 33},
                         {3, 129, 31},  {13, 600, 70},  {200, 64, 100}, {8, 1500, 257}};

INSTANTIATE_TEST_SUITE_P(Shapes, GemmTest,
                         ::testing::Combine(::testing::ValuesIn(kShapes),
                                            ::testing::Values(Dtype::kFloat32, Dtype::kBFloat16,
                                                              Dtype::kFloat8, Dtype::kInt8)),
                         CaseName);

// Products of `kernels` called directly: all rows together, then one row alone.
std::vector<float> Direct(const GemmKernels& kernels, const PackedMatrix& packed,
                          const std::vector<float>& x, size_t rows, size_t steps) {
  const size_t multiple = kernels.step_multiple;
  const size_t room = (steps + multiple - 1) / multiple * multiple;
  const size_t in = packed.in(), width = packed.panels() * kPanelOutputs;
  std::vector<std::byte> buffer(rows * room * kernels.element_bytes);
  kernels.pack(x.data(), in, rows, in, buffer.data());
  std::vector<float> got(rows * width), panel(rows * kPanelOutputs), single(kPanelOutputs);
  for (size_t i = 0; i < packed.panels(); ++i) {
    kernels.panel(buffer.data(), rows, steps, packed.panel(i), panel.data());
    for (size_t r = 0; r < rows; ++r) {
      std::copy_n(&panel[r * kPanelOutputs], kPanelOutputs, &got[r * width + i * kPanelOutputs]);
    }
  }
  kernels.pack(x.data() + (rows - 1) * in, in, 1, in, buffer.data());
  for (size_t i = 0; i < packed.panels(); ++i) {
    kernels.single(buffer.data(), steps, packed.panel(i), 0, 1, single.data());
    EXPECT_TRUE(
        test::SameBits(single.data(), &got[(rows - 1) * width + i * kPanelOutputs], kPanelOutputs));
  }
  return got;
}

// Gemm uses the best set of the processor; the others are called directly.
TEST(GemmKernelsTest, EveryBfloat16SetAgreesWithTheReference) {
  const GemmKernels* sets[] = {&BFloat16Kernels(), BFloat16DotKernels(), BFloat16TileKernels()};
  for (const Shape& shape : {Shape{1, 64, 32}, Shape{7, 301, 32}, Shape{16, 31, 40},
                             Shape{47, 600, 70}, Shape{49, 1056, 33}, Shape{192, 1, 64}}) {
    const auto [rows, in, out] = shape;
    const PackedMatrix packed = PackedMatrix::Pack(Normal(out * in, 4), out, in, Dtype::kBFloat16);
    const std::vector<float> x = Normal(rows * in, 5);
    std::vector<float> want(rows * out);
    GemmRef({&packed, x.data(), in, want.data(), out, rows, false});
    const size_t width = packed.panels() * kPanelOutputs;
    for (const GemmKernels* set : sets) {
      if (set == nullptr) continue;
      const std::vector<float> got = Direct(*set, packed, x, rows, (in + 1) / 2);
      for (size_t r = 0; r < rows; ++r) {
        for (size_t o = 0; o < width; ++o) {
          const double expected = o < out ? want[r * out + o] : 0.0;
          ASSERT_NEAR(got[r * width + o], expected, 2e-7 * static_cast<double>(in) * 12 + 1e-5)
              << rows << "x" << in << "x" << out << " at " << r << ", " << o;
        }
      }
    }
  }
}

TEST(GemmKernelsTest, PortableInt8HasTheBitsOfTheDotInstruction) {
  for (const Shape& shape : {Shape{1, 64, 32}, Shape{7, 301, 70}, Shape{29, 2500, 33}}) {
    const auto [rows, in, out] = shape;
    const PackedMatrix packed = PackedMatrix::Pack(Normal(out * in, 4), out, in, Dtype::kInt8);
    const std::vector<float> x = Normal(rows * in, 5);
    const size_t steps = (in + kInt8Group - 1) / kInt8Group;
    const std::vector<float> portable = Direct(Int8Kernels(), packed, x, rows, steps);
    std::vector<float> want(rows * out);
    GemmRef({&packed, x.data(), in, want.data(), out, rows, false});
    const size_t width = packed.panels() * kPanelOutputs;
    for (size_t r = 0; r < rows; ++r) {
      for (size_t o = 0; o < width; ++o) {
        // Only the sum over groups rounds; outputs that do not exist are zero.
        const double expected = o < out ? want[r * out + o] : 0.0;
        EXPECT_NEAR(portable[r * width + o], expected, 1e-4) << r << ", " << o;
      }
    }
    if (Int8DotKernels() == nullptr) continue;
    const std::vector<float> dot = Direct(*Int8DotKernels(), packed, x, rows, steps);
    EXPECT_TRUE(test::SameBits(dot.data(), portable.data(), dot.size())) << rows << "x" << in;
  }
}

// Whole numbers and single IEEE operations: these bits are those of every class and machine. The
// test runs under each class (lola_test_classes).
TEST(GemmTest, Int8ProductsHaveTheSameBitsInEveryClass) {
  const size_t rows = 21, in = 329, out = 45;
  const auto values = [](size_t n, uint32_t seed) {
    std::vector<float> made(n);
    for (float& value : made) {
      seed = seed * 1664525u + 1013904223u;
      value = (static_cast<float>(seed >> 12) - 524288.0f) / 131072.0f;
    }
    return made;
  };
  const PackedMatrix packed = PackedMatrix::Pack(values(out * in, 1), out, in, Dtype::kInt8);
  const std::vector<float> x = values(rows * in, 2);
  std::vector<float> got(rows * out);
  ThreadPool pool(2);
  Gemm({&packed, x.data(), in, got.data(), out, rows, false}, pool);
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const float value : got) hash = (hash ^ std::bit_cast<uint32_t>(value)) * 0x100000001B3ull;
  EXPECT_EQ(hash, 12190691910663832300ull);
}

TEST(GemmKernelsTest, QuantisesGroupsToNearestEvenAndKeepsWhatIsNotFinite) {
  int8_t p[kInt8Group];
  const float x[5] = {-254.0f, 1.0f, 3.0f, -3.0f, 127.0f};  // steps of 2: 0.5, 1.5, -1.5, 63.5
  const Int8GroupInfo info = QuantizeGroup(x, 5, p);
  EXPECT_EQ(info.step, 2.0f);
  EXPECT_EQ(std::vector<int>(p, p + 6), (std::vector<int>{-127, 0, 2, -2, 64, 0}));
  EXPECT_EQ(info.offset, -128 * (-127 + 2 - 2 + 64));
  EXPECT_EQ(QuantizeGroup(x + 5, 0, p).step, 0.0f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, inf, -inf}) {
    const PackedMatrix packed = PackedMatrix::Pack(Normal(32 * 100, 1), 32, 100, Dtype::kInt8);
    std::vector<float> input(100, 1.0f), output(32);
    input[70] = bad;
    ThreadPool pool(1);
    Gemm({&packed, input.data(), 100, output.data(), 32, 1, false}, pool);
    for (const float value : output) EXPECT_FALSE(std::isfinite(value));
  }
}

TEST(GemmTest, NoRowsIsNoWork) {
  const PackedMatrix packed = PackedMatrix::Pack(Normal(6, 1), 2, 3, Dtype::kFloat32);
  ThreadPool pool(1);
  Gemm({&packed, nullptr, 3, nullptr, 2, 0, false}, pool);
}

// The step of a float8 weight is an eighth of its own size at most, and far smaller ones than the
// row's largest keep steps of 2^-18 of it; what was rounded before stays as it is.
TEST(PackedMatrixTest, Float8RoundsEachRowOnce) {
  std::vector<float> w = Normal(40 * 50, 9);
  for (size_t i = 0; i < 50; ++i) w[7 * 50 + i] *= 1e-20f;
  const PackedMatrix packed = PackedMatrix::Pack(w, 40, 50, Dtype::kFloat8);
  std::vector<float> again(w.size());
  for (size_t o = 0; o < 40; ++o) {
    packed.CopyRow(o, again.data() + o * 50);
    float largest = 0;
    for (size_t i = 0; i < 50; ++i) largest = std::max(largest, std::fabs(w[o * 50 + i]));
    for (size_t i = 0; i < 50; ++i) {
      const float value = w[o * 50 + i];
      EXPECT_LE(std::fabs(again[o * 50 + i] - value),
                std::max(std::fabs(value) * 0x1p-4f, largest * 0x1p-18f));
    }
  }
  const PackedMatrix twice = PackedMatrix::Pack(again, 40, 50, Dtype::kFloat8);
  EXPECT_EQ(std::memcmp(packed.panel(0), twice.panel(0), packed.bytes()), 0);
}

// What a weight becomes in a matrix of this type.
float Stored(const std::vector<float>& row, size_t i, Dtype dtype) {
  if (dtype == Dtype::kFloat32) return row[i];
  if (dtype == Dtype::kBFloat16) return ToFloat(ToBFloat16(row[i]));
  if (dtype == Dtype::kFloat8) {
    const float scale = RowScale(RowExponent(row.data(), row.size()));
    return ToFloat(ToFloat8(row[i] / scale)) * scale;
  }
  float largest = 0.0f;
  for (const float w : row) largest = std::max(largest, std::fabs(w));
  const float scale = largest / 127.0f;
  return scale == 0.0f ? 0.0f : std::nearbyint(row[i] / scale) * scale;
}

TEST(PackedMatrixTest, KeepsEveryWeightAndPadsWithZeros) {
  std::vector<float> w = Normal(35 * 5, 1);
  std::fill_n(w.begin() + 3 * 5, 5, 0.0f);  // a row without a scale
  const std::map<Dtype, size_t> panel_bytes = {{Dtype::kFloat32, 32 * 5 * 4},
                                               {Dtype::kBFloat16, 32 * 6 * 2},
                                               {Dtype::kFloat8, 32 * 6 * 2},
                                               {Dtype::kInt8, 32 * 64 + 128}};
  for (const auto& [dtype, bytes] : panel_bytes) {
    const PackedMatrix packed = PackedMatrix::Pack(w, 35, 5, dtype);
    for (size_t o = 0; o < 35; ++o) {
      const std::vector<float> row(w.begin() + o * 5, w.begin() + (o + 1) * 5);
      for (size_t i = 0; i < 5; ++i) EXPECT_EQ(packed.At(o, i), Stored(row, i, dtype));
    }
    EXPECT_EQ(packed.bytes(), 2 * bytes);
    EXPECT_EQ(PackedMatrix::PackedBytes(35, 5, dtype), packed.bytes());
  }
}

TEST(PackedMatrixTest, RowsMayComeInPiecesAndAnyOrder) {
  const std::vector<float> w = Normal(100 * 70, 1);
  const std::span<const float> all(w);
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat8, Dtype::kInt8}) {
    const PackedMatrix whole = PackedMatrix::Pack(w, 100, 70, dtype);
    PackedMatrix pieces = PackedMatrix::Zeros(100, 70, dtype);
    for (const auto& [first, count] : {std::pair{61, 39}, std::pair{0, 1}, std::pair{1, 60}}) {
      pieces.SetRows(first, all.subspan(first * 70, count * 70));
    }
    for (size_t i = 0; i < whole.panels(); ++i) {
      for (size_t o = i * 32; o < std::min<size_t>(100, i * 32 + 32); ++o) {
        for (size_t in = 0; in < 70; ++in) ASSERT_EQ(pieces.At(o, in), whole.At(o, in));
      }
    }
  }
}

TEST(GemmDeathTest, ShortStridesAreAProgrammersError) {
  const PackedMatrix packed = PackedMatrix::Pack(Normal(6, 1), 2, 3, Dtype::kFloat32);
  ThreadPool pool(1);
  float x[3] = {}, y[2] = {};
  EXPECT_DEATH(Gemm({&packed, x, 2, y, 2, 1, false}, pool), "input_stride");
  EXPECT_DEATH(PackedMatrix::Pack(std::span<const float>(x), 2, 2, Dtype::kFloat32), "source");
}

}  // namespace
}  // namespace lola::kernels
