#include "services/engine/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "services/engine/weights.h"
#include "tests/services/engine/model_testing.h"

namespace lola::engine {
namespace {

using ::testing::HasSubstr;

const char kTinyModel[] = LOLA_SOURCE_DIR "/tests/testdata/parity/tiny_model";

std::string Text(const absl::Status& status) { return std::string(status.message()); }

class ModelTest : public ::testing::Test {
 protected:
  void SetUp() override { model_ = *Model::Random(*NamedGeometry("tiny"), 5, {}); }

  memory::LolaSettings Lifelong() {
    memory::LolaSettings settings = memory::LolaSettings::LifelongProfile();
    settings.window = settings.chunk = 16;
    settings.cache_pairs = 16;
    return settings;
  }

  std::unique_ptr<Model> model_;
  kernels::ThreadPool pool_{2};
};

TEST_F(ModelTest, RandomModelsAreFunctionsOfTheSeedAndStayFinite) {
  StepWorkspace workspace(*model_, 64, 2);
  TestStream stream(*model_, Lifelong());
  const std::vector<int32_t> tokens = RandomTokens(300, model_->geometry().vocab, 1);
  const std::vector<float> logits = stream.Feed(tokens, 64, workspace, pool_);
  double sum = 0.0;
  for (const float logit : logits) {
    ASSERT_TRUE(std::isfinite(logit));
    ASSERT_LT(std::fabs(logit), 50.0f);
    sum += std::fabs(logit);
  }
  EXPECT_GT(sum / logits.size(), 0.1);
  const auto same = Model::Random(*NamedGeometry("tiny"), 5, {});
  const auto other = Model::Random(*NamedGeometry("tiny"), 6, {});
  EXPECT_EQ((*same)->fingerprint(), model_->fingerprint());
  EXPECT_NE((*other)->fingerprint(), model_->fingerprint());
}

TEST_F(ModelTest, CountsWhatTheMemoryDid) {
  StepWorkspace workspace(*model_, 64, 2);
  TestStream stream(*model_, Lifelong());
  stream.Feed(RandomTokens(128, model_->geometry().vocab, 1), 50, workspace, pool_);
  // 128 tokens, chunk 16: events after 32, 48, ... 128 tokens, in 2 layers of 4 heads; each evicts
  // 16 pairs, of which 16 stay cached in the end.
  EXPECT_EQ(stream.stats().events, 7u * 2 * 4);
  EXPECT_EQ(stream.stats().absorptions, (7u * 16 - 16) * 2 * 4);
  EXPECT_EQ(stream.position(), 128u);
  const StepTimes& times = workspace.times();
  EXPECT_EQ(times.passes, 3u);
  EXPECT_EQ(times.rows, 128u);
  EXPECT_GT(times.gemm_ns, 0u);
  EXPECT_LE(times.gemm_ns + times.memory_ns + times.norm_ns + times.head_ns, times.total_ns);
}

TEST_F(ModelTest, RefusesASegmentAloneForABadToken) {
  StepWorkspace workspace(*model_, 64, 2);
  TestStream good(*model_, Lifelong()), bad(*model_, Lifelong());
  const std::vector<int32_t> tokens = {1, 2, 3}, wrong = {1, 272, 3}, negative = {-1};
  const memory::Digest128 before = bad.state().Digest();
  std::vector<Segment> segments = {bad.Next(wrong), good.Next(tokens)};
  ASSERT_TRUE(model_->Step(segments, workspace, pool_).ok());
  EXPECT_EQ(segments[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(segments[0].status), HasSubstr("token 1: id 272, must be 0 to 271"));
  EXPECT_EQ(bad.state().Digest(), before);
  EXPECT_TRUE(segments[1].status.ok());
  EXPECT_EQ(good.position(), 3u);
  segments = {bad.Next(negative)};
  ASSERT_TRUE(model_->Step(segments, workspace, pool_).ok());
  EXPECT_THAT(Text(segments[0].status), HasSubstr("id -1"));
}

TEST_F(ModelTest, RefusesPassesOfTheWrongSize) {
  StepWorkspace workspace(*model_, 4, 2);
  TestStream stream(*model_, Lifelong());
  EXPECT_EQ(model_->Step({}, workspace, pool_).code(), absl::StatusCode::kInvalidArgument);
  const std::vector<int32_t> none, five(5, 1);
  Segment segment = stream.Next(five);
  EXPECT_THAT(Text(model_->Step({&segment, 1}, workspace, pool_)), HasSubstr("5 rows"));
  segment = stream.Next(none);
  EXPECT_FALSE(model_->Step({&segment, 1}, workspace, pool_).ok());
  EXPECT_EQ(stream.position(), 0u);
}

TEST_F(ModelTest, SoftmaxStreamsEndAtTheirWindow) {
  StepWorkspace workspace(*model_, 64, 2);
  TestStream stream(*model_, memory::LolaSettings::SoftmaxProfile(40));
  stream.Feed(RandomTokens(38, model_->geometry().vocab, 1), 38, workspace, pool_);
  const std::vector<int32_t> three = {1, 2, 3}, two = {1, 2};
  Segment segment = stream.Next(three);
  ASSERT_TRUE(model_->Step({&segment, 1}, workspace, pool_).ok());
  EXPECT_EQ(segment.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(stream.position(), 38u);
  segment = stream.Next(two);
  ASSERT_TRUE(model_->Step({&segment, 1}, workspace, pool_).ok());
  EXPECT_TRUE(segment.status.ok()) << segment.status;
}

TEST_F(ModelTest, BrokenNumbersOfOneStreamLeaveTheOthersAlone) {
  StepWorkspace workspace(*model_, 128, 2);
  TestStream good(*model_, Lifelong()), twin(*model_, Lifelong()), bad(*model_, Lifelong());
  const std::vector<int32_t> tokens = RandomTokens(40, model_->geometry().vocab, 3);
  for (TestStream* stream : {&good, &twin, &bad}) stream->Feed(tokens, 40, workspace, pool_);
  // Break the window's values of the first layer.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (uint32_t row = 0; row < bad.layout().ring_rows(); ++row) {
    std::memcpy(
        bad.record().data() + bad.layout().layer(0).window_v + row * bad.layout().row_bytes(), &nan,
        sizeof(nan));
  }
  std::vector<Segment> segments = {bad.Next(tokens), good.Next(tokens)};
  ASSERT_TRUE(model_->Step(segments, workspace, pool_).ok());
  EXPECT_EQ(segments[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(segments[1].status.ok()) << segments[1].status;
  const std::vector<float> expected = twin.Feed(tokens, 40, workspace, pool_);
  EXPECT_EQ(good.logits(), expected);
  EXPECT_EQ(good.state().Digest(), twin.state().Digest());
}

TEST_F(ModelTest, LogitsAreWrittenForTheRowsAskedFor) {
  StepWorkspace workspace(*model_, 128, 2);
  TestStream all(*model_, Lifelong()), last(*model_, Lifelong());
  const size_t vocab = model_->geometry().vocab;
  const std::vector<int32_t> tokens = RandomTokens(100, model_->geometry().vocab, 3);
  const std::vector<float> expected = all.Feed(tokens, 100, workspace, pool_);
  Segment segment = last.Next(tokens);
  segment.logits_rows = 2;
  ASSERT_TRUE(model_->Step({&segment, 1}, workspace, pool_).ok());
  EXPECT_EQ(
      std::memcmp(last.logits().data(), expected.data() + 98 * vocab, 2 * vocab * sizeof(float)),
      0);
}

TEST_F(ModelTest, PlainLlamaRefusesLolaSettings) {
  ModelConfig config = *NamedGeometry("tiny");
  config.has_lola = false;
  config.geometry.feature_dim = 0;
  config.defaults = memory::LolaSettings::SoftmaxProfile(64);
  const auto model = Model::Random(config, 1, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->CheckSettings(config.defaults).ok());
  EXPECT_EQ((*model)->CheckSettings(Lifelong()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(NamedGeometry, ListsTheKnownNames) {
  const auto config = NamedGeometry("llama-3.2-1b");
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->geometry.vocab, 128256u);
  EXPECT_TRUE(config->defaults.Validate(config->geometry).ok());
  EXPECT_THAT(Text(NamedGeometry("x").status()), HasSubstr("llama-3.2-1b"));
}

TEST(SizeOfWeights, IsWhatBuildingGives) {
  for (const WeightDtype dtype :
       {WeightDtype::kFloat32, WeightDtype::kBFloat16, WeightDtype::kFloat8, WeightDtype::kInt8}) {
    for (const bool tied : {false, true}) {
      for (const bool lola : {false, true}) {
        ModelConfig config = *NamedGeometry("tiny");
        config.tied_embeddings = tied;
        config.has_lola = lola;
        if (!lola) config.geometry.feature_dim = 0;
        const ModelWeights weights = RandomWeights(config, 1, dtype);
        const WeightsSize size = SizeOfWeights(config, dtype);
        EXPECT_EQ(size.parameters, weights.parameters);
        EXPECT_EQ(size.bytes, weights.bytes);
      }
    }
  }
  // Llama 3.1 8B has 8,030,261,248 parameters; the feature maps add 32 * (2 * 32 * 128 * 128 + 32).
  EXPECT_EQ(SizeOfWeights(*NamedGeometry("llama-3.1-8b"), WeightDtype::kInt8).parameters,
            8030261248u + 32u * (2 * 32 * 128 * 128 + 32));
  EXPECT_EQ(SizeOfWeights(*NamedGeometry("llama-3.2-1b"), WeightDtype::kInt8).parameters,
            1235814400u + 16u * (2 * 32 * 64 * 64 + 32));
}

TEST(ModelWeights, EmbeddingsAreTheHeadsRowsWhenTied) {
  for (const WeightDtype dtype :
       {WeightDtype::kFloat32, WeightDtype::kBFloat16, WeightDtype::kInt8}) {
    ModelConfig config = *NamedGeometry("tiny");
    const ModelWeights plain = RandomWeights(config, 1, WeightDtype::kFloat32);
    config.tied_embeddings = true;
    const ModelWeights tied = RandomWeights(config, 1, dtype);
    std::vector<float> row(config.geometry.hidden), exact(config.geometry.hidden);
    for (const int32_t token : {0, 33, 271}) {
      tied.Embed(token, row.data());
      plain.Embed(token, exact.data());
      for (size_t i = 0; i < row.size(); ++i) {
        EXPECT_EQ(row[i], tied.head.At(static_cast<size_t>(token), i));
        EXPECT_NEAR(row[i], exact[i], 1.0 / 127);  // values below 1 in 127 steps
      }
    }
  }
}

// Copies of the committed model with one thing broken.
class ModelLoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           (std::string("load_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(dir_);
    std::filesystem::copy(kTinyModel, dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string WeightBytes() {
    std::ifstream in(dir_ / "model.safetensors", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void WriteWeights(const std::string& bytes) {
    std::ofstream(dir_ / "model.safetensors", std::ios::binary) << bytes;
  }
  absl::Status LoadError() { return Model::Load(dir_, {}).status(); }
  std::filesystem::path dir_;
};

TEST_F(ModelLoadTest, LoadsAndIdentifiesTheModel) {
  const auto model = Model::Load(dir_, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->fingerprint().size(), 32u);
  EXPECT_EQ((*model)->fingerprint(), (*Model::Load(kTinyModel, {}))->fingerprint());
  EXPECT_NE((*model)->fingerprint(),
            (*Model::Load(dir_, {.dtype = WeightDtype::kBFloat16}))->fingerprint());
  EXPECT_NE((*Model::Load(dir_, {.dtype = WeightDtype::kFloat8}))->fingerprint(),
            (*Model::Load(dir_, {.dtype = WeightDtype::kBFloat16}))->fingerprint());
  EXPECT_NE((*Model::Load(dir_, {.dtype = WeightDtype::kInt8}))->fingerprint(),
            (*Model::Load(dir_, {.dtype = WeightDtype::kBFloat16}))->fingerprint());
  // All but the header of the file is weights of four bytes.
  const uint64_t file_bytes = std::filesystem::file_size(dir_ / "model.safetensors");
  EXPECT_LT((*model)->parameters() * 4, file_bytes);
  EXPECT_GT((*model)->parameters() * 4, file_bytes - 4096);
}

TEST_F(ModelLoadTest, OneChangedWeightIsAnotherModel) {
  const std::string before = (*Model::Load(dir_, {}))->fingerprint();
  std::string bytes = WeightBytes();
  bytes.back() ^= 1;
  WriteWeights(bytes);
  const auto changed = Model::Load(dir_, {});
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_NE((*changed)->fingerprint(), before);
}

TEST_F(ModelLoadTest, RefusesTruncatedWeights) {
  const std::string bytes = WeightBytes();
  WriteWeights(bytes.substr(0, bytes.size() - 1));
  EXPECT_EQ(LoadError().code(), absl::StatusCode::kDataLoss);
  WriteWeights("");
  EXPECT_EQ(LoadError().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ModelLoadTest, NamesAMissingOrMisshapenTensor) {
  std::string bytes = WeightBytes();
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const size_t at = bytes.find(name);
  ASSERT_NE(at, std::string::npos);
  bytes[at + 13] = '7';
  WriteWeights(bytes);
  EXPECT_EQ(LoadError().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Text(LoadError()), HasSubstr(name));
}

// A config.json may say anything: what it says is compared with the files before any memory is
// taken for it (here 64 TiB).
TEST_F(ModelLoadTest, ShapesAreComparedBeforeMemoryIsTaken) {
  std::ifstream in(dir_ / "config.json");
  nlohmann::json config = nlohmann::json::parse(in);
  config["vocab_size"] = 1 << 24;
  config["hidden_size"] = 1 << 20;
  std::filesystem::remove(dir_ / "config.json");
  std::ofstream(dir_ / "config.json") << config;
  for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kInt8}) {
    const absl::Status status = Model::Load(dir_, {.dtype = dtype}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Text(status), HasSubstr("expected [16777216, 1048576]"));
  }
}

TEST_F(ModelLoadTest, NamesAWeightThatIsNotFinite) {
  std::string bytes = WeightBytes();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes.data() + bytes.size() - 4, &nan, 4);
  WriteWeights(bytes);
  EXPECT_EQ(LoadError().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(LoadError()), HasSubstr("is nan"));
}

TEST_F(ModelLoadTest, NamesMissingFiles) {
  std::filesystem::remove(dir_ / "config.json");
  EXPECT_EQ(LoadError().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Text(LoadError()), HasSubstr("config.json"));
}

}  // namespace
}  // namespace lola::engine
