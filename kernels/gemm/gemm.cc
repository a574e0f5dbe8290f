#include "kernels/gemm/gemm.h"

#include <algorithm>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/gemm/gemm_kernels.h"

namespace lola::kernels {
namespace {

// Below this many multiply-adds waking another thread costs more than it saves.
constexpr size_t kSerialProducts = size_t{1} << 19;
// Pieces per thread: enough to even out a thread that was pre-empted, few enough to stay
// contiguous.
constexpr size_t kPiecesPerThread = 4;

const GemmKernels& KernelsFor(Dtype dtype) {
  if (dtype == Dtype::kFloat32) return Float32Kernels();
  if (dtype == Dtype::kInt8) {
    const GemmKernels* dot = Int8DotKernels();
    return dot != nullptr ? *dot : Int8Kernels();
  }
  if (const GemmKernels* tiles = BFloat16TileKernels(); tiles != nullptr) return *tiles;
  const GemmKernels* dot = BFloat16DotKernels();
  return dot != nullptr ? *dot : BFloat16Kernels();
}

size_t StepsFor(Dtype dtype, size_t in) {
  if (dtype == Dtype::kFloat32) return in;
  return dtype == Dtype::kInt8 ? (in + kInt8Group - 1) / kInt8Group : (in + 1) / 2;
}

// One pass: at most kRowsPerPass rows, already packed.
struct Pass {
  const GemmParams& p;
  const GemmKernels& kernels;
  const void* packed;
  size_t first_row;
  size_t rows;
  size_t steps;

  void Write(const float* sums, size_t panel, size_t row) const {
    const size_t first = panel * kPanelOutputs;
    const size_t count = std::min(kPanelOutputs, p.weights->out() - first);
    float* out = p.output + (first_row + row) * p.output_stride + first;
    if (p.accumulate) {
      for (size_t o = 0; o < count; ++o) out[o] += sums[o];
    } else {
      std::copy(sums, sums + count, out);
    }
  }

  void Panels(size_t begin, size_t end) const {
    alignas(64) float sums[kRowsPerPass * kPanelOutputs];
    const PackedMatrix& weights = *p.weights;
    if (rows == 1) {
      for (size_t panel = begin; panel < end; panel += kPanelsInFlight) {
        const size_t count = std::min(kPanelsInFlight, end - panel);
        kernels.single(packed, steps, weights.panel(panel), weights.panel_bytes(), count, sums);
        for (size_t i = 0; i < count; ++i) Write(sums + i * kPanelOutputs, panel + i, 0);
      }
      return;
    }
    for (size_t panel = begin; panel < end; ++panel) {
      kernels.panel(packed, rows, steps, weights.panel(panel), sums);
      for (size_t r = 0; r < rows; ++r) Write(sums + r * kPanelOutputs, panel, r);
    }
  }
};

void RunPass(const Pass& pass, ThreadPool& pool) {
  const size_t panels = pass.p.weights->panels();
  const size_t products = pass.rows * pass.p.weights->in() * panels * kPanelOutputs;
  const size_t threads = static_cast<size_t>(pool.threads());
  if (threads == 1 || products < kSerialProducts || panels < 2) return pass.Panels(0, panels);
  const size_t wanted = (panels + threads * kPiecesPerThread - 1) / (threads * kPiecesPerThread);
  const size_t piece = (wanted + kPanelsInFlight - 1) / kPanelsInFlight * kPanelsInFlight;
  pool.ParallelFor((panels + piece - 1) / piece, [&](size_t index, int) {
    pass.Panels(index * piece, std::min(panels, (index + 1) * piece));
  });
}

}  // namespace

void Gemm(const GemmParams& p, ThreadPool& pool) {
  LOLA_CHECK(p.weights != nullptr && p.weights->out() > 0) << "no weights";
  LOLA_CHECK_GE(p.input_stride, p.weights->in());
  LOLA_CHECK_GE(p.output_stride, p.weights->out());
  const GemmKernels& kernels = KernelsFor(p.weights->dtype());
  const size_t in = p.weights->in();
  const size_t steps = StepsFor(p.weights->dtype(), in);
  const size_t room = (steps + kernels.step_multiple - 1) / kernels.step_multiple *
                      kernels.step_multiple * kernels.element_bytes;  // of a packed row
  thread_local std::vector<std::byte> packed;  // grows to the largest pass and stays
  for (size_t row = 0; row < p.rows; row += kRowsPerPass) {
    const size_t rows = std::min(kRowsPerPass, p.rows - row);
    if (packed.size() < rows * room) packed.resize(rows * room);
    kernels.pack(p.input + row * p.input_stride, p.input_stride, rows, in, packed.data());
    RunPass(Pass{p, kernels, packed.data(), row, rows, steps}, pool);
  }
}

}  // namespace lola::kernels
