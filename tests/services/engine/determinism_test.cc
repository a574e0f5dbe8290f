// P2 at model level: logits and state digest are functions of the tokens alone, bit for bit. How
// tokens were split into passes, what else was in the pass, how many threads ran and where the
// record lay must not change one bit.
#include <cstring>
#include <deque>
#include <map>

#include "tests/services/engine/model_testing.h"

namespace lola::engine {
namespace {

constexpr size_t kTokens = 700;
constexpr size_t kRows = 256;

struct Case {
  const char* name;
  memory::LolaSettings settings;
  WeightDtype dtype = WeightDtype::kFloat32;
};

// Small windows and caches, so that hundreds of tokens make many events.
memory::LolaSettings Small(memory::LolaSettings settings) {
  settings.window = 32;
  settings.chunk = 16;
  settings.cache_pairs = 24;
  settings.mass_cap = settings.mass_cap > 0 ? 64 : 0;
  return settings;
}

std::vector<Case> Cases() {
  std::vector<Case> cases = {
      {"lifelong", Small(memory::LolaSettings::LifelongProfile())},
      {"paper", Small(memory::LolaSettings::PaperProfile())},
      {"softmax", memory::LolaSettings::SoftmaxProfile(1024)},
      {"lifelong_bf16", Small(memory::LolaSettings::LifelongProfile()), WeightDtype::kBFloat16},
      {"lifelong_int8", Small(memory::LolaSettings::LifelongProfile()), WeightDtype::kInt8}};
  cases.push_back({"base", Small(memory::LolaSettings::PaperProfile())});
  cases.back().settings.cache_pairs = 0;
  cases.push_back({"cache_bf16", Small(memory::LolaSettings::LifelongProfile())});
  cases.back().settings.cache_dtype = kernels::Dtype::kBFloat16;
  cases.push_back(
      {"all_float8", Small(memory::LolaSettings::LifelongProfile()), WeightDtype::kFloat8});
  cases.back().settings.cache_dtype = kernels::Dtype::kFloat8;
  cases.push_back({"attention_shared", Small(memory::LolaSettings::PaperProfile())});
  cases.back().settings.score = memory::Score::kAttention;
  cases.back().settings.cache_sharing = memory::CacheSharing::kGroup;
  cases.back().settings.sinks = 4;
  cases.back().settings.adaptive_mass = 0.8f;
  cases.back().settings.cache_pairs_min = 8;
  cases.push_back({"leave_one_out", Small(memory::LolaSettings::LifelongProfile())});
  cases.back().settings.score = memory::Score::kRelativeLeaveOneOut;
  cases.back().settings.rescore = false;
  cases.back().settings.mixing = memory::Mixing::kLolcats;
  return cases;
}

class Determinism : public ::testing::TestWithParam<Case> {
 protected:
  static const Model& ModelFor(WeightDtype dtype) {
    static std::map<WeightDtype, std::unique_ptr<Model>> models;
    std::unique_ptr<Model>& model = models[dtype];
    if (model == nullptr) model = *Model::Random(*NamedGeometry("tiny"), 5, {.dtype = dtype});
    return *model;
  }
};

// The stream under test, its expected logits, and how far it came.
struct Progress {
  Progress(const Model& model, const memory::LolaSettings& settings, uint64_t seed)
      : stream(model, settings), tokens(RandomTokens(kTokens, model.geometry().vocab, seed)) {}
  TestStream stream;
  std::vector<int32_t> tokens;
  std::vector<float> expected;
  size_t done = 0;
};

bool SameBits(const float* a, const float* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

TEST_P(Determinism, NothingButTheTokensChangesABit) {
  const Model& model = ModelFor(GetParam().dtype);
  const size_t vocab = model.geometry().vocab;
  kernels::ThreadPool one(1);
  StepWorkspace quiet(model, kRows, 1);
  std::deque<Progress> streams;
  std::vector<memory::Digest128> digests;
  for (uint64_t i = 0; i < 3; ++i) {
    Progress& p = streams.emplace_back(model, GetParam().settings, 100 + i);
    TestStream reference(model, GetParam().settings);
    p.expected = reference.Feed(p.tokens, 1 + 63 * i, quiet, one);  // token by token, 64, 127
    digests.push_back(reference.state().Digest());
  }
  std::mt19937_64 random(7);
  for (int round = 0; streams[0].done + streams[1].done + streams[2].done < 3 * kTokens; ++round) {
    kernels::ThreadPool pool(1 + static_cast<int>(random() % 4));
    StepWorkspace workspace(model, kRows, 4);
    std::vector<Progress*> in_pass;
    std::vector<Segment> segments;
    size_t room = kRows;
    for (Progress& p : streams) {
      if (p.done == kTokens || random() % 4 == 0) continue;
      if (random() % 5 == 0) p.stream.Move();
      // Short pieces and long ones, some over chunk boundaries.
      size_t rows = random() % 3 == 0 ? 1 : 1 + random() % 90;
      rows = std::min({rows, kTokens - p.done, room});
      if (rows == 0) continue;
      room -= rows;
      segments.push_back(p.stream.Next(std::span(p.tokens).subspan(p.done, rows)));
      in_pass.push_back(&p);
    }
    if (segments.empty()) continue;
    ASSERT_TRUE(model.Step(segments, workspace, pool).ok());
    for (size_t i = 0; i < segments.size(); ++i) {
      Progress& p = *in_pass[i];
      ASSERT_TRUE(segments[i].status.ok()) << segments[i].status;
      ASSERT_TRUE(SameBits(p.stream.logits().data(), p.expected.data() + p.done * vocab,
                           p.stream.logits().size()))
          << "round " << round << ", position " << p.done;
      p.done += segments[i].tokens.size();
    }
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(streams[i].stream.position(), kTokens);
    EXPECT_EQ(memory::ToHex(streams[i].stream.state().Digest()), memory::ToHex(digests[i]));
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, Determinism, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace lola::engine
