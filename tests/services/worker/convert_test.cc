#include "services/worker/convert.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "services/rpc/status_map.h"
#include "services/worker/worker_state.h"

namespace lola::worker {
namespace {

TEST(Convert, AnEmptyRequestLeavesSettingsToTheModel) {
  auto settings = RequestedSettings({}, memory::LolaSettings::LifelongProfile());
  ASSERT_TRUE(settings.ok());
  EXPECT_FALSE(settings->has_value());
}

TEST(Convert, AProfileSetsItsPartsAndKeepsTheModelsSizes) {
  memory::LolaSettings defaults = memory::LolaSettings::LifelongProfile();
  defaults.cache_pairs = 40;
  v1::LolaSettings message;
  message.set_profile("paper");
  auto settings = RequestedSettings(message, defaults);
  ASSERT_TRUE(settings.ok() && settings->has_value());
  EXPECT_EQ((*settings)->memory_positions, memory::MemoryPositions::kRotary);
  EXPECT_EQ((*settings)->mass_cap, 0u);
  EXPECT_EQ((*settings)->redundancy_threshold, 0.0f);
  EXPECT_EQ((*settings)->cache_pairs, 40u);
  EXPECT_EQ((*settings)->profile, "paper");
  message.set_profile("psychic");
  EXPECT_TRUE(absl::IsInvalidArgument(RequestedSettings(message, defaults).status()));
}

TEST(Convert, SingleFieldsOverrideAndZeroCanBeAsked) {
  v1::LolaSettings message;
  message.set_cache_pairs(0);
  message.set_window(32);
  message.set_chunk(16);
  message.set_score("recency");
  message.set_cache_dtype("bfloat16");
  auto settings = RequestedSettings(message, memory::LolaSettings::LifelongProfile());
  ASSERT_TRUE(settings.ok() && settings->has_value());
  EXPECT_EQ((*settings)->cache_pairs, 0u);
  EXPECT_EQ((*settings)->window, 32u);
  EXPECT_EQ((*settings)->chunk, 16u);
  EXPECT_EQ((*settings)->score, memory::Score::kRecency);
  EXPECT_EQ((*settings)->cache_dtype, kernels::Dtype::kBFloat16);
  EXPECT_EQ((*settings)->profile, "custom");
  message.set_score("guess");
  const absl::Status status =
      RequestedSettings(message, memory::LolaSettings::LifelongProfile()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_NE(status.message().find("guess"), std::string::npos) << status;
}

TEST(Convert, RecordsSurviveTheRoundTrip) {
  engine::StreamRecord record;
  record.stream_id = "s";
  record.stream_uid = "u";
  record.labels = {{"a", "b"}};
  record.model_fingerprint = "f";
  record.settings = memory::LolaSettings::PaperProfile();
  record.settings.cache_pairs_per_layer = {1, 2, 3};
  record.settings.memory_distance = 7;
  record.sampling.temperature = 0.5f;
  record.sampling.seed = 99;
  record.committed_position = 1234;
  record.owner_epoch = 5;
  record.snapshots = {{"blob", 1000, std::string(16, 'x'), 77, "name", 88}};
  auto again = FromProto(ToProto(record));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->settings.ToString(), record.settings.ToString());
  EXPECT_TRUE(again->settings == record.settings);
  EXPECT_EQ(again->sampling.seed, 99u);
  EXPECT_EQ(again->sampling.temperature, 0.5f);
  EXPECT_EQ(again->labels, record.labels);
  ASSERT_EQ(again->snapshots.size(), 1u);
  EXPECT_EQ(again->snapshots[0].name, "name");
  EXPECT_EQ(again->snapshots[0].position, 1000u);
  for (auto settings :
       {memory::LolaSettings::LifelongProfile(), memory::LolaSettings::SoftmaxProfile(512)}) {
    auto same = RecordSettings(ToProto(settings));
    ASSERT_TRUE(same.ok()) << same.status();
    EXPECT_TRUE(*same == settings) << same->ToString() << " / " << settings.ToString();
  }
}

TEST(Convert, SelectionSettingsTravelBothWays) {
  v1::LolaSettings message;
  message.set_sinks(4);
  message.set_cache_sharing("group");
  message.set_adaptive_mass(0.9f);
  message.set_cache_pairs_min(32);
  message.set_score("relative_leave_one_out");
  message.set_cache_dtype("float8");
  auto settings = RequestedSettings(message, memory::LolaSettings::LifelongProfile());
  ASSERT_TRUE(settings.ok() && settings->has_value()) << settings.status();
  const memory::LolaSettings& s = **settings;
  EXPECT_EQ(s.sinks, 4u);
  EXPECT_EQ(s.cache_sharing, memory::CacheSharing::kGroup);
  EXPECT_EQ(s.adaptive_mass, 0.9f);
  EXPECT_EQ(s.cache_pairs_min, 32u);
  EXPECT_EQ(s.score, memory::Score::kRelativeLeaveOneOut);
  EXPECT_EQ(s.cache_dtype, kernels::Dtype::kFloat8);
  auto again = RecordSettings(ToProto(s));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->ToString(), s.ToString());
  EXPECT_EQ(again->Fingerprint(), s.Fingerprint());
  // A zero that is asked for overrides the model's default.
  v1::LolaSettings zero;
  zero.set_sinks(0);
  zero.set_adaptive_mass(0);
  auto off = RequestedSettings(zero, s);
  ASSERT_TRUE(off.ok() && off->has_value());
  EXPECT_EQ((*off)->sinks, 0u);
  EXPECT_EQ((*off)->adaptive_mass, 0.0f);
  message.set_cache_sharing("everybody");
  const absl::Status status = RequestedSettings(message, s).status();
  EXPECT_NE(status.message().find("everybody"), std::string::npos) << status;
}

// A record written before these fields existed has none of them.
TEST(Convert, RecordsOfTheFirstReleaseKeepTheirFingerprint) {
  const memory::LolaSettings settings = memory::LolaSettings::LifelongProfile();
  v1::LolaSettings old = ToProto(settings);
  old.clear_sinks();
  old.clear_cache_sharing();
  old.clear_adaptive_mass();
  old.clear_cache_pairs_min();
  auto again = RecordSettings(old);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->Fingerprint(), settings.Fingerprint());
}

TEST(Convert, OperationsAreCheckedByName) {
  const auto tokenizer = engine::MakeByteTokenizer();
  v1::WorkerOp op;
  op.mutable_append()->set_text("\xff\xfe");
  EXPECT_TRUE(absl::IsInvalidArgument(AppendFromProto(op, *tokenizer).status()));
  op.mutable_append()->set_text(std::string(3 << 20, 'a'));
  EXPECT_TRUE(absl::IsInvalidArgument(AppendFromProto(op, *tokenizer).status()));
  op.mutable_append()->set_text("abc");
  op.set_has_base(true);
  op.set_base_position(9);
  auto append = AppendFromProto(op, *tokenizer);
  ASSERT_TRUE(append.ok());
  EXPECT_EQ(append->ids, std::vector<int32_t>({'a', 'b', 'c'}));
  EXPECT_EQ(append->base, 9u);
  op.mutable_generate()->set_max_tokens(0);
  const absl::Status status = GenerateFromProto(op).status();
  EXPECT_NE(status.message().find("max_tokens"), std::string::npos) << status;
}

// A SentencePiece-style vocabulary: a text that begins a stream gets <s> and a space sign in front,
// one that goes on gets neither, wherever the operation says that it stands.
TEST(Convert, TextGetsItsBeginningOnlyWhereTheStreamBegins) {
  std::ifstream in(LOLA_SOURCE_DIR "/tests/testdata/tokenizer/sentencepiece.json");
  const auto made = engine::ParseTokenizer(std::string(std::istreambuf_iterator<char>(in), {}));
  ASSERT_TRUE(made.ok()) << made.status();
  const engine::Tokenizer& tokenizer = **made;
  const auto later = *tokenizer.Encode("memory", {false, {}});
  auto first = *tokenizer.Encode("memory");
  first.insert(first.begin(), *tokenizer.SpecialId("<s>"));
  v1::WorkerOp op;
  op.mutable_append()->set_text("memory");
  auto open = AppendFromProto(op, tokenizer);
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_EQ(open->ids, later);
  EXPECT_EQ(open->ids_at_start, first);
  op.set_has_base(true);
  for (const uint64_t base : {0, 7}) {
    op.set_base_position(base);
    auto append = AppendFromProto(op, tokenizer);
    ASSERT_TRUE(append.ok()) << append.status();
    EXPECT_EQ(append->ids, base == 0 ? first : later);
    EXPECT_EQ(append->ids_at_start, std::nullopt);
  }
}

TEST(Convert, AnInspectionThatNoMessageHoldsSaysWhatToAskFor) {
  v1::InspectMemoryReply reply;
  EXPECT_TRUE(CheckFits(reply).ok());
  for (int i = 0; i < 9; ++i) {
    reply.add_heads()->add_pairs()->set_context(std::string(1 << 20, 'x'));
  }
  const absl::Status status = CheckFits(reply);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(status.message().find("9 heads"), std::string::npos) << status;
  EXPECT_NE(status.message().find("one layer"), std::string::npos) << status;
}

TEST(Convert, AShardThatDoesNotAnswerIsAwayForCallers) {
  const engine::EngineOptions options;
  EXPECT_TRUE(absl::IsUnavailable(WithHint(absl::DeadlineExceededError("append"), options)));
  const absl::Status full = WithHint(absl::ResourceExhaustedError("queue"), options);
  EXPECT_EQ(rpc::GetDetail(full, rpc::kRetryAfterMsDetail), "200");
  absl::Status lasting = absl::ResourceExhaustedError("window");
  lasting.SetPayload(engine::kLastingPayload, absl::Cord());
  EXPECT_FALSE(rpc::GetDetail(WithHint(lasting, options), rpc::kRetryAfterMsDetail).has_value());
}

}  // namespace
}  // namespace lola::worker
