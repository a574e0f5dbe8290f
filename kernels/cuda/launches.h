// Launches of all kernels, shared by the real device and the emulation. The including file defines
// LOLA_LAUNCH(kernel, grid, threads, shared_bytes, ...) and gives Grid three unsigned numbers.
#ifndef LOLA_KERNELS_CUDA_LAUNCHES_H_
#define LOLA_KERNELS_CUDA_LAUNCHES_H_

#include "kernels/core/check.h"
#include "kernels/cuda/absorb.cuh"
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/combine.cuh"
#include "kernels/cuda/device.h"
#include "kernels/cuda/event.cuh"
#include "kernels/cuda/float8_gemm.cuh"
#include "kernels/cuda/int8_gemm.cuh"
#include "kernels/cuda/mass.cuh"
#include "kernels/cuda/queries.cuh"
#include "kernels/cuda/redundancy.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sample.cuh"
#include "kernels/cuda/score.cuh"
#include "kernels/cuda/select.cuh"

#ifndef LOLA_LAUNCH
#error "define LOLA_LAUNCH before including launches.h"
#endif

namespace lola::cuda {

static_assert(SelectSharedBytes(kEventPairsMax) <= kSharedBytesMax);
static_assert(AttendMemory<kHeadDimMax, kTileRows / kColumns>::Bytes() <= kSharedBytesMax);
static_assert(ScoreSharedBytes(kFewPairs, kHeadDimMax, kFeatureDimMax) <= kSharedBytesMax);
static_assert(QueryMemory<kManyQueryTiles>::Bytes(kHeadDimMax, kFeatureDimMax / 2) <=
              kSharedBytesMax);
static_assert(ManySharedBytes() <= kSharedBytesMax && FewSharedBytes(4) <= kSharedBytesMax);

// Kernel launches of a device; the memory and queue half is left to `Base`, which is a Device and
// has `bool Ready()`: false after a failure.
template <typename Base>
class KernelLaunches : public Base {
 public:
  using Base::Base;

  // Bounds between kernels are powers of two: a recording, which has that many rows, runs the
  // kernels that the step before it has loaded.
  void Gemm(const GemmCall& call) override {
    if (!Start(call.rows)) return;
    if (call.type == MatrixType::kFloat8) return Float8Gemm(call);
    if (call.type != MatrixType::kInt8) return Base::Gemm(call);
    int8_t* quantized = static_cast<int8_t*>(call.work);
    const uint32_t groups = WeightGroups(call.in);
    const Int8Params p{static_cast<const int8_t*>(call.weights),
                       call.scales,
                       static_cast<const float*>(call.input),
                       quantized,
                       reinterpret_cast<float*>(quantized + call.rows * groups * kGroupInputs),
                       call.output,
                       call.rows,
                       call.out,
                       static_cast<uint32_t>(call.in),
                       call.accumulate ? 1u : 0u};
    constexpr unsigned kWarps = kInt8Threads / kWarpThreads;
    LOLA_LAUNCH(QuantizeKernel, Grid(call.rows, (groups + kWarps - 1) / kWarps), kInt8Threads, 0,
                p);
    if (call.rows <= 8) {
      Int8Of<1>(p);
    } else if (call.rows <= 32) {
      Int8Of<4>(p);
    } else {
      Int8Of<8>(p);
    }
  }

  void Embed(const Row* rows, size_t count, const void* table, const float* scales, MatrixType type,
             uint32_t hidden, float* x) override {
    if (!Start(count)) return;
    if (type == MatrixType::kInt8) {
      LOLA_LAUNCH(EmbedInt8Kernel, Grid(count), kRowThreads, 0, rows,
                  static_cast<const int8_t*>(table), scales, hidden, x);
    } else if (type == MatrixType::kFloat8) {
      LOLA_LAUNCH(EmbedFloat8Kernel, Grid(count), kRowThreads, 0, rows,
                  static_cast<const Fp8*>(table), scales, hidden, x);
    } else if (type == MatrixType::kFloat32) {
      LOLA_LAUNCH(EmbedKernel<float>, Grid(count), kRowThreads, 0, rows,
                  static_cast<const float*>(table), hidden, x);
    } else {
      LOLA_LAUNCH(EmbedKernel<Bf16>, Grid(count), kRowThreads, 0, rows,
                  static_cast<const Bf16*>(table), hidden, x);
    }
  }

  void Norm(const NormCall& c) override {
    if (!Start(c.rows)) return;
    if (c.type == MatrixType::kFloat32) {
      LOLA_LAUNCH(NormKernel<float>, Grid(c.rows), kRowThreads, 128, c.x, c.pick, c.weight,
                  c.epsilon, c.hidden, static_cast<float*>(c.out));
    } else {
      LOLA_LAUNCH(NormKernel<Bf16>, Grid(c.rows), kRowThreads, 128, c.x, c.pick, c.weight,
                  c.epsilon, c.hidden, static_cast<Bf16*>(c.out));
    }
  }

  void Swiglu(const float* gate_up, size_t rows, uint32_t ffn, MatrixType type,
              void* out) override {
    if (!Start(rows)) return;
    if (type == MatrixType::kFloat32) {
      LOLA_LAUNCH(SwigluKernel<float>, Grid(rows), kRowThreads, 0, gate_up, ffn,
                  static_cast<float*>(out));
    } else {
      LOLA_LAUNCH(SwigluKernel<Bf16>, Grid(rows), kRowThreads, 0, gate_up, ffn,
                  static_cast<Bf16*>(out));
    }
  }

  void Queries(const QueryParams& p, size_t rows) override {
    if (!Start(rows)) return;
    LOLA_CHECK_EQ(p.row_count, rows);
    if (rows <= 64) {
      QueriesOf<1>(p);
    } else {
      QueriesOf<kManyQueryTiles>(p);
    }
  }

  void Push(const PushParams& p, size_t tiles) override {
    if (!Start(tiles)) return;
    LOLA_LAUNCH(PushKernel, Grid(tiles, p.shape.kv_heads), kRowThreads, 0, p);
  }

  void Attend(const AttendParams& p, size_t tiles, bool single) override {
    if (!Start(tiles)) return;
    switch (p.shape.head_dim) {
      case 16:
        return AttendOf<16>(p, tiles, single);
      case 32:
        return AttendOf<32>(p, tiles, single);
      case 64:
        return AttendOf<64>(p, tiles, single);
      case 128:
        return AttendOf<128>(p, tiles, single);
      default:
        LOLA_CHECK(false) << "head_dim " << p.shape.head_dim;
    }
  }

  void Masses(const AttendParams& p, size_t tiles, bool single) override {
    if (!Start(tiles)) return;
    switch (p.shape.head_dim) {
      case 16:
        return MassesOf<16>(p, tiles, single);
      case 32:
        return MassesOf<32>(p, tiles, single);
      case 64:
        return MassesOf<64>(p, tiles, single);
      case 128:
        return MassesOf<128>(p, tiles, single);
      default:
        LOLA_CHECK(false) << "head_dim " << p.shape.head_dim;
    }
  }

  void Combine(const CombineParams& p, size_t rows, MatrixType type, void* out) override {
    if (!Start(rows)) return;
    const unsigned threads = (p.shape.head_dim + kWarpThreads - 1) / kWarpThreads * kWarpThreads;
    if (type == MatrixType::kFloat32) {
      LOLA_LAUNCH(CombineKernel<float>, Grid(rows, p.shape.query_heads), threads, 0, p,
                  static_cast<float*>(out));
    } else {
      LOLA_LAUNCH(CombineKernel<Bf16>, Grid(rows, p.shape.query_heads), threads, 0, p,
                  static_cast<Bf16*>(out));
    }
  }

  void RunEvents(const EventParams& p, size_t events) override {
    if (!Start(events)) return;
    switch (p.shape.head_dim) {
      case 16:
        return EventsOf<16>(p, events);
      case 32:
        return EventsOf<32>(p, events);
      case 64:
        return EventsOf<64>(p, events);
      case 128:
        return EventsOf<128>(p, events);
      default:
        LOLA_CHECK(false) << "head_dim " << p.shape.head_dim;
    }
  }

  void Sample(const SampleParams& p, size_t rows) override {
    if (!Start(rows)) return;
    LOLA_LAUNCH(SampleKernel, Grid(rows), kSampleThreads, SampleSharedBytes(), p);
  }

 private:
  bool Start(size_t count) { return count > 0 && this->Ready(); }

  static auto Grid(size_t x, size_t y = 1, size_t z = 1) {
    return typename Base::GridSize{static_cast<unsigned>(x), static_cast<unsigned>(y),
                                   static_cast<unsigned>(z)};
  }

  static size_t Blocks(size_t n, size_t each) { return (n + each - 1) / each; }

  template <unsigned NT>
  void Int8Of(const Int8Params& p) {
    LOLA_LAUNCH(Int8GemmKernel<NT>,
                Grid((p.out + kInt8Outputs - 1) / kInt8Outputs, (p.rows + 8 * NT - 1) / (8 * NT)),
                kInt8Threads, 0, p);
  }

  void Float8Gemm(const GemmCall& call) {
    const Float8Params p{static_cast<const Fp8*>(call.weights),
                         call.scales,
                         static_cast<const Bf16*>(call.input),
                         call.output,
                         call.rows,
                         call.out,
                         static_cast<uint32_t>(call.in),
                         call.accumulate ? 1u : 0u};
    const size_t few = Blocks(p.out, kFewOutputs);
    if (p.rows <= 8) {
      LOLA_LAUNCH(Float8FewKernel<1>, Grid(few), kFloat8Threads, FewSharedBytes(1), p);
    } else if (p.rows <= 64) {
      LOLA_LAUNCH(Float8FewKernel<4>, Grid(few, Blocks(p.rows, 32)), kFloat8Threads,
                  FewSharedBytes(4), p);
    } else {
      LOLA_LAUNCH(Float8ManyKernel, Grid(Blocks(p.rows, kManyRows), Blocks(p.out, kManyOutputs)),
                  kFloat8Threads, ManySharedBytes(), p);
    }
  }

  template <unsigned NT>
  void QueriesOf(const QueryParams& p) {
    LOLA_LAUNCH(QueryKernel<NT>,
                Grid(Blocks(p.row_count, QueryMemory<NT>::kRows), p.shape.query_heads), kRowThreads,
                QueryMemory<NT>::Bytes(p.shape.head_dim, p.shape.feature_dim / 2), p);
  }

  template <unsigned D>
  void AttendOf(const AttendParams& p, size_t tiles, bool single) {
    constexpr unsigned kMany = kTileRows / kColumns;
    LOLA_CHECK_EQ(p.tile_count, tiles);
    const auto grid = Grid(tiles * UnitsOf(p, single ? 1 : kMany));
    if (single) {
      LOLA_LAUNCH((AttendKernel<D, 1>), grid, kAttendThreads, (AttendMemory<D, 1>::Bytes()), p);
    } else {
      LOLA_LAUNCH((AttendKernel<D, kMany>), grid, kAttendThreads, (AttendMemory<D, kMany>::Bytes()),
                  p);
    }
  }

  template <unsigned D>
  void MassesOf(const AttendParams& p, size_t tiles, bool single) {
    const auto grid = Grid(tiles, p.shape.query_heads, p.sections.cache + p.sections.window);
    constexpr unsigned kMany = kTileRows / kColumns;
    if (single) {
      LOLA_LAUNCH((MassKernel<D, 1>), grid, kAttendThreads, (AttendMemory<D, 1>::Bytes()), p);
    } else {
      LOLA_LAUNCH((MassKernel<D, kMany>), grid, kAttendThreads, (AttendMemory<D, kMany>::Bytes()),
                  p);
    }
  }

  template <unsigned D>
  void EventsOf(const EventParams& p, size_t events) {
    if (ScoreSharedBytes(kManyPairs, D, p.shape.feature_dim) <= kSharedBytesMax) {
      EventsBy<D, kManyPairs>(p, events);
    } else {
      EventsBy<D, kFewPairs>(p, events);
    }
  }
  template <unsigned D, unsigned PAIRS>
  void EventsBy(const EventParams& p, size_t events) {
    const uint32_t features = p.shape.feature_dim, heads = p.shape.query_heads;
    const auto pairs = Grid(events, heads, Blocks(p.sizes.pairs_max, PAIRS));
    const auto sections = Grid(events, heads, features / kSectionFeatures);
    constexpr unsigned kThreads = EventBlockThreads(PAIRS);
    const size_t panel = KeyPanelBytes(PAIRS, D, features);
    if (p.sizes.trial != 0) {
      LOLA_LAUNCH(FeaturesKernel<PAIRS>, pairs, kThreads, panel, p, 1);
      LOLA_LAUNCH(TrialKernel, sections, kEventThreads, AbsorbSharedBytes(), p);
    }
    LOLA_LAUNCH((ScoreKernel<D, PAIRS>), pairs, kThreads, ScoreSharedBytes(PAIRS, D, features), p);
    LOLA_LAUNCH(RedundancyKernel<D>, Grid(events, heads, Blocks(p.sizes.pairs_max, kRowsOfBlock)),
                kEventThreads, 0, p);
    LOLA_LAUNCH(SelectKernel, Grid(events, heads), kSelectThreads,
                SelectSharedBytes(p.sizes.pairs_max), p);
    LOLA_LAUNCH(FeaturesKernel<PAIRS>, Grid(events, heads, Blocks(p.sizes.drops_max, PAIRS)),
                kThreads, panel, p, 0);
    LOLA_LAUNCH(AbsorbKernel, sections, kEventThreads, AbsorbSharedBytes(), p);
    LOLA_LAUNCH(MoveKernel, Grid(events, heads), kEventThreads, 0, p);
    LOLA_LAUNCH(ClearKernel, Grid(events, p.shape.kv_heads), kEventThreads, 0, p);
  }
};

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_LAUNCHES_H_
