// Unconverted Hugging Face directories, as transformers writes them, in softmax mode: single file
// and shards, float32, bfloat16 and float16, Llama and Mistral, against transformers' own logits.
// Made by tools/reference_model/make_transformers_fixtures.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "services/engine/mapped_file.h"
#include "services/engine/safetensors.h"
#include "tests/services/engine/model_testing.h"

namespace lola::engine {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

const std::filesystem::path kFixtures = LOLA_SOURCE_DIR "/tests/testdata/transformers";

struct Expected {
  std::vector<int32_t> tokens, positions;
  std::vector<float> logits;
  Json made_with;
};

template <typename T>
std::vector<T> Values(const TensorView& view) {
  std::vector<T> values(view.data.size() / sizeof(T));
  std::memcpy(values.data(), view.data.data(), view.data.size());
  return values;
}

Expected ReadExpected(const std::filesystem::path& directory) {
  const std::string path = directory / "logits.safetensors";
  const MappedFile file = *MappedFile::Open(path);
  const TensorMap tensors = *ParseSafetensors(file.bytes(), path);
  uint64_t header = 0;
  std::memcpy(&header, file.bytes().data(), sizeof(header));
  const char* text = reinterpret_cast<const char*>(file.bytes().data()) + sizeof(header);
  const Json meta = Json::parse(text, text + header)["__metadata__"];
  return {Values<int32_t>(tensors.at("tokens")), Values<int32_t>(tensors.at("positions")),
          Values<float>(tensors.at("logits")), Json::parse(meta["made_with"].get<std::string>())};
}

// Largest difference of the engine's logits from transformers' float64 pass.
double Difference(const std::filesystem::path& directory, WeightDtype dtype) {
  const auto model = Model::Load(directory, {.dtype = dtype});
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return INFINITY;
  EXPECT_EQ((*model)->default_settings().mode, memory::Mode::kSoftmax);
  const Expected expected = ReadExpected(directory);
  TestStream stream(**model, (*model)->default_settings());
  kernels::ThreadPool pool(2);
  StepWorkspace workspace(**model, 100, 2);
  const std::vector<float> logits = stream.Feed(expected.tokens, 100, workspace, pool);
  const size_t vocab = (*model)->geometry().vocab;
  double worst = 0.0;
  for (size_t i = 0; i < expected.positions.size(); ++i) {
    for (size_t j = 0; j < vocab; ++j) {
      const double apart = std::fabs(double{logits[expected.positions[i] * vocab + j]} -
                                     expected.logits[i * vocab + j]);
      worst = std::isfinite(apart) ? std::max(worst, apart) : INFINITY;
    }
  }
  return worst;
}

class Transformers : public ::testing::TestWithParam<std::string> {};

// Two float32 passes of one model differ from its float64 pass by draws of one kind: same
// operations, other order. The fixture holds what transformers' float32 pass differs by (about
// 1e-6 of the largest logit); 4 times that leaves room for the order, and for rotary angles, which
// transformers rounds to float32 in its float64 pass too.
TEST_P(Transformers, Float32LogitsAgree) {
  const std::filesystem::path directory = kFixtures / GetParam();
  const double theirs = ReadExpected(directory).made_with["differences"]["float32"];
  const double ours = Difference(directory, WeightDtype::kFloat32);
  std::printf("%s: %.2e, transformers %.2e\n", GetParam().c_str(), ours, theirs);
  EXPECT_LE(ours, 4 * theirs);
}

// transformers rounds every activation to bfloat16; the engine rounds the inputs of products only,
// so it must not be farther from the exact logits than transformers' bfloat16 pass is.
TEST_P(Transformers, BFloat16LogitsAreNoFartherThanTheirs) {
  const std::filesystem::path directory = kFixtures / GetParam();
  const double theirs = ReadExpected(directory).made_with["differences"]["bfloat16"];
  const double ours = Difference(directory, WeightDtype::kBFloat16);
  std::printf("%s: %.2e, transformers %.2e\n", GetParam().c_str(), ours, theirs);
  EXPECT_LE(ours, theirs);
  EXPECT_GT(ours, 0.0);
}

// int8: weights and inputs of products are off by up to half a 127th of their row's or group's
// largest value, that is by 2^-8 of it at most, as bfloat16 is of each value itself. Largest values
// are 3 to 4 times typical ones here, so 4 times what bfloat16 in transformers does is the bar; a
// wrong scale or order would be off by the logits' own size.
TEST_P(Transformers, Int8LogitsStayNear) {
  const std::filesystem::path directory = kFixtures / GetParam();
  const Json made_with = ReadExpected(directory).made_with;
  const double theirs = made_with["differences"]["bfloat16"];
  const double ours = Difference(directory, WeightDtype::kInt8);
  std::printf("%s: %.2e, transformers' bfloat16 %.2e\n", GetParam().c_str(), ours, theirs);
  EXPECT_LE(ours, 4 * theirs);
  EXPECT_LT(4 * theirs, made_with["largest_logit"].get<double>());
}

// float8: a weight is off by up to 2^-4 of itself, 32 times what bfloat16 is off by; inputs are
// bfloat16 on both sides.
TEST_P(Transformers, Float8LogitsStayNear) {
  const std::filesystem::path directory = kFixtures / GetParam();
  const Json made_with = ReadExpected(directory).made_with;
  const double theirs = made_with["differences"]["bfloat16"];
  const double ours = Difference(directory, WeightDtype::kFloat8);
  std::printf("%s: %.2e, transformers' bfloat16 %.2e\n", GetParam().c_str(), ours, theirs);
  EXPECT_LE(ours, 32 * theirs);
  EXPECT_LT(32 * theirs, made_with["largest_logit"].get<double>());
}

std::vector<std::string> Directories() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kFixtures)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Directories, Transformers, ::testing::ValuesIn(Directories()),
                         [](const auto& info) { return info.param; });

// What the set as a whole must hold, so that losing a fixture is noticed.
TEST(TransformersFixtures, CoverShapesTypesAndFiles) {
  std::set<std::string> seen;
  for (const std::string& name : Directories()) {
    const auto config = LoadModelConfig(kFixtures / name);
    ASSERT_TRUE(config.ok()) << config.status();
    const memory::ModelGeometry& g = config->geometry;
    seen.insert("group " + std::to_string(g.group()));
    seen.insert("head_dim " + std::to_string(g.head_dim));
    seen.insert(config->tied_embeddings ? "tied" : "untied");
    seen.insert(config->rope_scaling ? "scaled" : "unscaled");
    if (config->sliding_window > 0) seen.insert("sliding");
    const auto files = TensorSet::Open(kFixtures / name);
    ASSERT_TRUE(files.ok()) << files.status();
    seen.insert(files->tensors().begin()->second.dtype);
    const auto text = ReadTextFile(kFixtures / name / "config.json", 1 << 20);
    const Json root = Json::parse(*text);
    seen.insert(root["model_type"].get<std::string>());
    seen.insert(root.contains("rope_parameters") ? "rope_parameters" : "rope_theta");
    const bool shards = std::filesystem::exists(kFixtures / name / "model.safetensors.index.json");
    seen.insert(shards ? "shards" : "single");
  }
  EXPECT_THAT(seen, ::testing::IsSupersetOf({"group 1", "group 4", "group 8", "head_dim 64",
                                             "head_dim 128", "tied", "untied", "scaled", "unscaled",
                                             "sliding", "BF16", "F16", "F32", "llama", "mistral",
                                             "rope_parameters", "rope_theta", "shards", "single"}));
}

TEST(Mistral, SoftmaxStreamsStayWithinTheSlidingWindow) {
  const auto model = Model::Load(kFixtures / "mistral_gqa4_d128_bfloat16", {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->default_settings().window, 128u);
  EXPECT_TRUE((*model)->CheckSettings(memory::LolaSettings::SoftmaxProfile(128)).ok());
  const absl::Status refused = (*model)->CheckSettings(memory::LolaSettings::SoftmaxProfile(129));
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("window: 129"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("128 positions"));
}

TEST(HuggingFaceDirectory, NamesWeightsItCannotRead) {
  const std::filesystem::path directory =
      std::filesystem::path(::testing::TempDir()) / "transformers_pickle";
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  std::filesystem::copy(kFixtures / "llama2_gqa1_d64_float32/config.json", directory);
  std::ofstream(directory / "pytorch_model.bin") << "x";
  const absl::Status status = Model::Load(directory, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("pytorch_model.bin"));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace lola::engine
