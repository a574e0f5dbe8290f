#include "kernels/gemm/gemm.h"

#include <string>
#include <tuple>

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
                                            ::testing::Values(Dtype::kFloat32, Dtype::kBFloat16)),
                         CaseName);

// The portable bfloat16 kernels are not reached through Gemm on a processor with the dot
// instruction, so they are called directly.
TEST(GemmKernelsTest, PortableBfloat16AgreesWithTheReference) {
  const size_t rows = 7, in = 301, out = 32;
  const PackedMatrix packed = PackedMatrix::Pack(Normal(out * in, 4), out, in, Dtype::kBFloat16);
  const std::vector<float> x = Normal(rows * in, 5);
  std::vector<float> want(rows * out);
  GemmRef({&packed, x.data(), in, want.data(), out, rows, false});
  const GemmKernels& kernels = BFloat16Kernels();
  const size_t steps = (in + 1) / 2;
  std::vector<float> buffer(rows * steps * kernels.element_bytes / 4);
  kernels.pack(x.data(), in, rows, in, buffer.data());
  std::vector<float> got(rows * out);
  kernels.panel(buffer.data(), rows, steps, packed.panel(0), got.data());
  EXPECT_LE(WorstError(got, want), 1e-4);
  std::vector<float> single(out);
  kernels.pack(x.data() + 3 * in, in, 1, in, buffer.data());
  kernels.single(buffer.data(), steps, packed.panel(0), 0, 1, single.data());
  EXPECT_TRUE(test::SameBits(single.data(), got.data() + 3 * out, out));
}

TEST(GemmTest, NoRowsIsNoWork) {
  const PackedMatrix packed = PackedMatrix::Pack(Normal(6, 1), 2, 3, Dtype::kFloat32);
  ThreadPool pool(1);
  Gemm({&packed, nullptr, 3, nullptr, 2, 0, false}, pool);
}

TEST(PackedMatrixTest, KeepsEveryWeightAndPadsWithZeros) {
  const std::vector<float> w = Normal(35 * 5, 1);
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16}) {
    const PackedMatrix packed = PackedMatrix::Pack(w, 35, 5, dtype);
    for (size_t o = 0; o < 35; ++o) {
      for (size_t i = 0; i < 5; ++i) {
        const float expected =
            dtype == Dtype::kFloat32 ? w[o * 5 + i] : ToFloat(ToBFloat16(w[o * 5 + i]));
        EXPECT_EQ(packed.At(o, i), expected);
      }
    }
    EXPECT_EQ(packed.bytes(), 2 * 32 * (dtype == Dtype::kFloat32 ? 5 * 4 : 6 * 2));
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
