#include "services/evaluate/passkey.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace lola::evaluate {
namespace {

using ::testing::HasSubstr;

const char kModelDir[] = LOLA_SOURCE_DIR "/models/passkey-1m";

PasskeyText Words() { return *PasskeyText::Load(std::string(kModelDir) + "/passkey_text.json"); }

// A model that knows nothing: fast, and its answers are as good as noise.
std::unique_ptr<engine::Model> RandomModel() {
  return *engine::Model::Random(*engine::NamedGeometry("tiny"), 5, {});
}

PasskeyOptions Short(const engine::Model& model) {
  PasskeyOptions options;
  options.settings = model.default_settings();
  options.settings.window = options.settings.chunk = 32;
  options.settings.cache_pairs = 32;
  options.length = 800;
  options.questions = 10;
  options.needles = 2;
  return options;
}

TEST(WilsonInterval, KnownValues) {
  const auto none = WilsonInterval(0, 100);
  EXPECT_NEAR(none.first, 0.0, 1e-9);
  EXPECT_NEAR(none.second, 3.70, 0.01);
  const auto most = WilsonInterval(99, 100);
  EXPECT_NEAR(most.first, 94.55, 0.01);
  EXPECT_NEAR(most.second, 99.82, 0.01);
}

TEST(EvaluatePasskey, TheResultDoesNotDependOnThreadsOrBatches) {
  const auto model = RandomModel();
  const auto tokenizer = engine::MakeByteTokenizer();
  PasskeyOptions options = Short(*model);
  PasskeyResult first;
  for (const auto& [threads, streams] : {std::pair(1, 1u), std::pair(2, 3u), std::pair(3, 8u)}) {
    options.threads = threads;
    options.streams_per_thread = streams;
    uint64_t calls = 0;
    PasskeyProgress last;
    const auto result =
        EvaluatePasskey(*model, *tokenizer, Words(), options, [&](const PasskeyProgress& now) {
          ++calls;
          last = now;
        });
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_GE(calls, 1u);
    EXPECT_EQ(last.tokens, last.tokens_total);
    EXPECT_EQ(last.questions, 10u);
    EXPECT_EQ(result->questions, 10u);
    EXPECT_EQ(result->tokens, last.tokens_total);
    EXPECT_EQ(std::accumulate(result->asked_by_depth.begin(), result->asked_by_depth.end(), 0u),
              10u);
    if (threads == 1) first = *result;
    EXPECT_EQ(result->digits_right, first.digits_right);
    EXPECT_EQ(result->asked_by_depth, first.asked_by_depth);
    EXPECT_EQ(result->stats.absorptions, first.stats.absorptions);
  }
  EXPECT_GT(first.stats.absorptions, 0u);
}

TEST(EvaluatePasskey, NamesBadOptions) {
  const auto model = RandomModel();
  const auto tokenizer = engine::MakeByteTokenizer();
  const auto error = [&](auto&& change) {
    PasskeyOptions options = Short(*model);
    change(options);
    const auto result = EvaluatePasskey(*model, *tokenizer, Words(), options, {});
    return result.ok() ? "ok" : std::string(result.status().message());
  };
  EXPECT_THAT(error([](auto& o) { o.questions = 0; }), HasSubstr("questions: 0"));
  EXPECT_THAT(error([](auto& o) { o.needles = 65; }), HasSubstr("needles: 65"));
  EXPECT_THAT(error([](auto& o) { o.length = 100; }), HasSubstr("length: 100"));
  EXPECT_THAT(error([](auto& o) { o.threads = 0; }), HasSubstr("threads: 0"));
  EXPECT_THAT(error([](auto& o) { o.number_share = 2; }), HasSubstr("number_share: 2"));
  EXPECT_THAT(error([](auto& o) { o.streams_per_thread = 99; }), HasSubstr("99"));
  EXPECT_THAT(error([](auto& o) { o.settings.chunk = 33; }), HasSubstr("chunk"));
}

TEST(NamedSettings, KnowsProfilesAndModes) {
  const auto model = RandomModel();
  EXPECT_EQ(*NamedSettings(*model, "model", "lola"), model->default_settings());
  EXPECT_EQ(NamedSettings(*model, "paper", "lola")->mass_cap, 0u);
  EXPECT_EQ(NamedSettings(*model, "paper", "base")->cache_pairs, 0u);
  EXPECT_EQ(NamedSettings(*model, "lifelong", "softmax")->mode, memory::Mode::kSoftmax);
  EXPECT_THAT(std::string(NamedSettings(*model, "x", "lola").status().message()),
              HasSubstr("\"x\""));
  EXPECT_THAT(std::string(NamedSettings(*model, "paper", "x").status().message()),
              HasSubstr("\"x\""));
  EXPECT_EQ(*NamedSettings(*model, "model", "model"), model->default_settings());
}

// An unconverted model has nothing to remember with: never softmax under another name.
TEST(NamedSettings, AnUnconvertedModelIsSoftmaxAndSaysSo) {
  const auto model = engine::Model::Load(
      LOLA_SOURCE_DIR "/tests/testdata/transformers/llama32_gqa8_d64_float32", {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(NamedSettings(**model, "model", "model")->mode, memory::Mode::kSoftmax);
  EXPECT_EQ(NamedSettings(**model, "model", "softmax")->mode, memory::Mode::kSoftmax);
  for (const char* mode : {"lola", "base"}) {
    EXPECT_THAT(
        std::string(NamedSettings(**model, "model", mode).status().message()),
        HasSubstr("mode: \"" + std::string(mode) + "\", but the model has no feature maps"));
  }
  EXPECT_THAT(std::string(NamedSettings(**model, "paper", "model").status().message()),
              HasSubstr("profile: \"paper\", but"));
}

// What the project is for, in small: the trained model answers from memory at its training length,
// and without the sparse cache it does not.
TEST(ReferenceModel, AnswersFromTheSparseCacheAndNotWithoutIt) {
  const auto model = engine::Model::Load(kModelDir, {});
  ASSERT_TRUE(model.ok()) << model.status();
  const auto tokenizer = engine::LoadTokenizer(kModelDir);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto percent = [&](const char* profile, const char* mode) {
    PasskeyOptions options;
    options.settings = *NamedSettings(**model, profile, mode);
    options.questions = 40;
    const auto result = EvaluatePasskey(**model, **tokenizer, Words(), options, {});
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->percent : -1.0;
  };
  EXPECT_GE(percent("lifelong", "softmax"), 90.0);
  EXPECT_GE(percent("lifelong", "lola"), 90.0);
  EXPECT_LE(percent("lifelong", "base"), 15.0);
}

// Single bytes under another name: like most vocabularies, it has a blank at the beginning of an
// answer instead of at the end of a question.
class BlankFirst : public engine::Tokenizer {
 public:
  size_t size() const override { return bytes_->size(); }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const engine::EncodeOptions& options) const override {
    return bytes_->Encode(text, options);
  }
  std::string_view TokenBytes(int32_t id) const override { return bytes_->TokenBytes(id); }
  std::optional<int32_t> SpecialId(std::string_view name) const override {
    return bytes_->SpecialId(name);
  }
  std::string_view kind() const override { return "other"; }

 private:
  std::unique_ptr<engine::Tokenizer> bytes_ = engine::MakeByteTokenizer();
};

TEST(ReferenceModel, DigitsOfAnAnswerCountBehindItsBlank) {
  const auto model = engine::Model::Load(kModelDir, {});
  ASSERT_TRUE(model.ok()) << model.status();
  PasskeyOptions options;
  options.settings = *NamedSettings(**model, "model", "softmax");
  options.questions = 8;
  const auto result = EvaluatePasskey(**model, BlankFirst(), Words(), options, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(result->right, 6u);
  EXPECT_GE(result->digits_right, 5 * result->right);
}

}  // namespace
}  // namespace lola::evaluate
