// Products by weight type and number of rows, on the four matrices of a layer.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/core/bf16.h"
#include "tests/bench/device/bench_world.h"

namespace lola::bench {
namespace {

using cuda::MatrixType;
using engine::DeviceArray;

const char* Name(MatrixType type) {
  return type == MatrixType::kInt8 ? "int8" : type == MatrixType::kFloat8 ? "float8" : "bfloat16";
}

// Random, never zero: what is zero costs less power. float8: codes of numbers between 2^-6 and 8.
std::vector<unsigned char> RandomWeights(MatrixType type, size_t count) {
  std::vector<unsigned char> bytes(count * cuda::MatrixBytes(type));
  uint32_t state = 1;
  for (size_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const uint32_t sign = state >> 31, size = state >> 8;
    if (type == MatrixType::kBFloat16) {
      const float value = (float(size % 65536) + 1) * (sign != 0 ? -0x1p-16f : 0x1p-16f);
      reinterpret_cast<kernels::BFloat16*>(bytes.data())[i] = kernels::ToBFloat16(value);
    } else if (type == MatrixType::kInt8) {
      bytes[i] = static_cast<unsigned char>(sign != 0 ? -int(size % 127) - 1 : int(size % 127) + 1);
    } else {
      bytes[i] = static_cast<unsigned char>(sign << 7 | (8 + size % 72));
    }
  }
  return bytes;
}

std::vector<unsigned char> RandomInputs(MatrixType type, size_t count) {
  const std::vector<float> values = Randoms(count, -1.5f, 1.5f);
  std::vector<unsigned char> bytes(count * (type == MatrixType::kInt8 ? 4 : 2));
  if (type == MatrixType::kInt8) std::memcpy(bytes.data(), values.data(), bytes.size());
  for (size_t i = 0; type != MatrixType::kInt8 && i < count; ++i) {
    reinterpret_cast<kernels::BFloat16*>(bytes.data())[i] = kernels::ToBFloat16(values[i]);
  }
  return bytes;
}

struct Matrix {
  const char* name;
  size_t out, in;
};

void RunMatrix(const BenchOptions& options, cuda::Device* device, BenchReport& report,
               const Matrix& m, MatrixType type) {
  const std::vector<size_t> counts =
      options.smoke ? std::vector<size_t>{1, 70} : std::vector<size_t>{1, 8, 32, 64, 256, 2048};
  const size_t most = counts.back(), group = cuda::kGroupInputs;
  const DeviceArray<unsigned char> weights =
      Uploaded(device, RandomWeights(type, m.out * ((m.in + group - 1) / group * group)));
  const DeviceArray<float> scales = Uploaded(device, std::vector<float>(m.out, 0.125f));
  const DeviceArray<unsigned char> input = Uploaded(device, RandomInputs(type, most * m.in));
  DeviceArray<float> output;
  DeviceArray<unsigned char> work;
  Need(output.Allocate(device, most * m.out, "product"));
  Need(work.Allocate(device, cuda::QuantizedBytes(most, m.in), "quantised inputs"));
  for (const size_t rows : counts) {
    const auto run = [&] {
      device->Gemm({.type = type,
                    .weights = weights.data(),
                    .scales = scales.data(),
                    .work = work.data(),
                    .input = input.data(),
                    .output = output.data(),
                    .rows = rows,
                    .out = m.out,
                    .in = m.in});
    };
    const int runs = options.smoke ? 1 : rows > 64 ? 10 : 50;
    const Timing timing = TimeQueued(options.repetitions, runs, run, [&] { Wait(device); });
    const double bytes = double(m.out) * m.in * cuda::MatrixBytes(type) +
                         double(rows) * (m.in * (type == MatrixType::kInt8 ? 4 : 2) + m.out * 4);
    const double flops = 2.0 * rows * m.out * m.in;
    report.Add(
        {"product", absl::StrCat(m.name, ", ", Name(type), ", ", rows, " rows"),
         1e6 * timing.median_s, timing.spread, 0, report.FloorUs(bytes, flops),
         rows <= 64 ? Rate(bytes / timing.median_s, "B") : Rate(flops / timing.median_s, "FLOP")});
  }
}

}  // namespace

void RunProducts(const BenchOptions& options, cuda::Device* device, BenchReport& report) {
  const std::vector<Matrix> matrices = options.smoke
                                           ? std::vector<Matrix>{{"tiny", 96, 80}}
                                           : std::vector<Matrix>{{"8B qkv", 6144, 4096},
                                                                 {"8B o", 4096, 4096},
                                                                 {"8B gate and up", 28672, 4096},
                                                                 {"8B down", 4096, 14336}};
  for (const Matrix& matrix : matrices) {
    for (const MatrixType type : {MatrixType::kBFloat16, MatrixType::kInt8, MatrixType::kFloat8}) {
      RunMatrix(options, device, report, matrix, type);
    }
  }
}

}  // namespace lola::bench
