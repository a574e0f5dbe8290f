#include "tests/bench/kernels/gemm_peers.h"

#include <dlfcn.h>

#include <memory>

#if defined(LOLA_HAVE_ONEDNN)
#include <oneapi/dnnl/dnnl.hpp>
#endif

namespace lola::bench {
namespace {

using Product = std::function<void(const float*, float*)>;

// Loaded at run time: the environment variable that picks its kernels must be set before.
struct OpenBlas {
  using Gemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int,
                        float, float*, int);
  using SetThreads = void (*)(int);

  OpenBlas() {
    void* library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    gemm = reinterpret_cast<Gemm>(dlsym(library, "cblas_sgemm"));
    set_threads = reinterpret_cast<SetThreads>(dlsym(library, "openblas_set_num_threads"));
  }
  Gemm gemm = nullptr;
  SetThreads set_threads = nullptr;
};

Product PrepareOpenBlas(const std::vector<float>& weights, size_t rows, size_t in, size_t out,
                        int threads) {
  static const OpenBlas blas;
  if (blas.gemm == nullptr || blas.set_threads == nullptr) return {};
  blas.set_threads(threads);
  constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;
  const int m = static_cast<int>(rows), n = static_cast<int>(out), k = static_cast<int>(in);
  return [&weights, m, n, k](const float* x, float* y) {
    blas.gemm(kRowMajor, kNoTrans, kTrans, m, n, k, 1.0f, x, k, weights.data(), k, 0.0f, y, n);
  };
}

#if defined(LOLA_HAVE_ONEDNN)
Product PrepareOneDnn(kernels::Dtype dtype, const std::vector<float>& weights, size_t rows,
                      size_t in, size_t out, int threads) {
  if (threads != 1) return {};  // Debian's build takes its threads from OpenMP
  using dnnl::memory;
  const auto type =
      dtype == kernels::Dtype::kFloat32 ? memory::data_type::f32 : memory::data_type::bf16;
  const memory::dim m = static_cast<memory::dim>(rows), k = static_cast<memory::dim>(in),
                    n = static_cast<memory::dim>(out);
  struct State {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    memory source, packed_weights, target;
    dnnl::matmul product;
    std::vector<kernels::BFloat16> rounded;
  };
  auto state = std::make_shared<State>();
  memory::desc source({m, k}, type, memory::format_tag::ab);
  memory::desc any({k, n}, type, memory::format_tag::any);
  memory::desc target({m, n}, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(source, any, target),
                                                 state->engine);
  memory plain({{k, n}, memory::data_type::f32, memory::format_tag::ba}, state->engine,
               const_cast<float*>(weights.data()));
  state->source = memory(source, state->engine);
  state->target = memory(target, state->engine, nullptr);
  state->packed_weights = memory(description.weights_desc(), state->engine);
  dnnl::reorder(plain, state->packed_weights).execute(state->stream, plain, state->packed_weights);
  state->stream.wait();
  state->product = dnnl::matmul(description);
  return [state, type, count = rows * in](const float* x, float* y) {
    void* data = state->source.get_data_handle();
    if (type == memory::data_type::f32) {
      std::copy(x, x + count, static_cast<float*>(data));
    } else {
      auto* to = static_cast<kernels::BFloat16*>(data);
      for (size_t i = 0; i < count; ++i) to[i] = kernels::ToBFloat16(x[i]);
    }
    state->target.set_data_handle(y);
    state->product.execute(state->stream, {{DNNL_ARG_SRC, state->source},
                                           {DNNL_ARG_WEIGHTS, state->packed_weights},
                                           {DNNL_ARG_DST, state->target}});
    state->stream.wait();
  };
}
#endif

}  // namespace

std::vector<GemmPeer> GemmPeers(kernels::Dtype dtype) {
  std::vector<GemmPeer> peers;
  if (dtype == kernels::Dtype::kInt8) return peers;  // none quantises groups of inputs
  if (dtype == kernels::Dtype::kFloat32) peers.push_back({"OpenBLAS sgemm", PrepareOpenBlas});
#if defined(LOLA_HAVE_ONEDNN)
  peers.push_back({"oneDNN matmul", [dtype](const std::vector<float>& weights, size_t rows,
                                            size_t in, size_t out, int threads) {
                     return PrepareOneDnn(dtype, weights, rows, in, out, threads);
                   }});
#endif
  return peers;
}

}  // namespace lola::bench
