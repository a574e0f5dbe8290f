// P2 of matrix products: a row's bits do not depend on how many rows there are. The narrow types
// have kernels of their own for few and for many rows; float32 and bfloat16 are cuBLASLt's on a
// GPU, where this is what its one algorithm for a shape is trusted with.
#include "kernels/core/bf16.h"
#include "tests/services/engine/device/device_testing.h"

namespace lola::engine {
namespace {

using cuda::MatrixType;

// Values that every type of element holds: small whole numbers, times a power of two.
std::vector<std::byte> Elements(MatrixType type, size_t rows, size_t columns, size_t row_bytes,
                                uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(rows * row_bytes);
  for (size_t i = 0; i < rows * columns; ++i) {
    std::byte* row = bytes.data() + i / columns * row_bytes;
    const float value = float(int(random() % 4001) - 2000) * 0x1p-10f;
    if (type == MatrixType::kFloat32) {
      reinterpret_cast<float*>(row)[i % columns] = value;
    } else if (type == MatrixType::kBFloat16) {
      reinterpret_cast<kernels::BFloat16*>(row)[i % columns] = kernels::ToBFloat16(value);
    } else if (type == MatrixType::kInt8) {
      row[i % columns] = std::byte(random() % 255 - 127);
    } else {
      row[i % columns] = std::byte(random() % 2 * 128 + random() % 120);
    }
  }
  return bytes;
}

class Products {
 public:
  Products(MatrixType type, size_t rows, size_t out, size_t in)
      : type_(type), rows_(rows), out_(out), in_(in), device_(TestDevice(kDeviceBytes)) {
    const bool wide = type == MatrixType::kFloat32 || type == MatrixType::kInt8;
    input_bytes_ = in * (wide ? 4 : 2);
    Put(weights_, Elements(type, out, in, cuda::MatrixRowBytes(type, in), 1));
    Put(input_,
        Elements(wide ? MatrixType::kFloat32 : MatrixType::kBFloat16, rows, in, input_bytes_, 2));
    std::vector<std::byte> scales(out * sizeof(float));
    for (size_t o = 0; o < out; ++o) {
      const float scale = std::ldexp(1.0f, int(o % 5) - 8);
      std::memcpy(scales.data() + o * sizeof(float), &scale, sizeof(scale));
    }
    Put(scales_, scales);
    EXPECT_TRUE(work_.Allocate(device_.get(), cuda::QuantizedBytes(rows, in), "work").ok());
    EXPECT_TRUE(output_.Allocate(device_.get(), rows * out, "output").ok());
  }

  std::vector<float> Run(size_t first, size_t count) {
    device_->Gemm({.type = type_,
                   .weights = weights_.data(),
                   .scales = reinterpret_cast<const float*>(scales_.data()),
                   .work = work_.data(),
                   .input = input_.data() + first * input_bytes_,
                   .output = output_.data(),
                   .rows = count,
                   .out = out_,
                   .in = in_});
    std::vector<float> got(count * out_);
    device_->Download(cuda::Queue::kCompute, got.data(), output_.data(),
                      got.size() * sizeof(float));
    device_->WaitOnHost(device_->Record(cuda::Queue::kCompute));
    EXPECT_EQ(device_->error(), "");
    return got;
  }

 private:
  void Put(DeviceArray<std::byte>& to, const std::vector<std::byte>& from) {
    ASSERT_TRUE(to.Allocate(device_.get(), from.size(), "test").ok());
    device_->Upload(cuda::Queue::kCompute, to.data(), from.data(), from.size());
    device_->WaitOnHost(device_->Record(cuda::Queue::kCompute));
  }

  const MatrixType type_;
  const size_t rows_, out_, in_;
  size_t input_bytes_ = 0;
  std::unique_ptr<cuda::Device> device_;
  DeviceArray<std::byte> weights_, input_, scales_, work_;
  DeviceArray<float> output_;
};

class ProductTypes : public testing::TestWithParam<MatrixType> {};

TEST_P(ProductTypes, RowsDoNotDependOnTheirNumber) {
  constexpr size_t kRows = 140, kOut = 144, kIn = 448;
  Products products(GetParam(), kRows, kOut, kIn);
  const std::vector<float> all = products.Run(0, kRows);
  EXPECT_GT(LargestDifference(all, std::vector<float>(all.size())), 0.01);
  for (const auto& [first, count] : {std::pair<size_t, size_t>{0, 1},
                                     {139, 1},
                                     {4, 2},
                                     {8, 7},
                                     {16, 8},
                                     {24, 9},
                                     {40, 33},
                                     {60, 64},
                                     {64, 70}}) {
    const std::vector<float> some = products.Run(first, count);
    EXPECT_EQ(std::memcmp(some.data(), &all[first * kOut], some.size() * sizeof(float)), 0)
        << "rows " << first << " + " << count;
  }
}

std::string TypeName(const testing::TestParamInfo<MatrixType>& info) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "int8", "float8"};
  return kNames[int(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Types, ProductTypes,
                         testing::Values(MatrixType::kFloat32, MatrixType::kBFloat16,
                                         MatrixType::kInt8, MatrixType::kFloat8),
                         TypeName);

}  // namespace
}  // namespace lola::engine
