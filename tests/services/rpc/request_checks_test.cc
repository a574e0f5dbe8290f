#include "services/rpc/request_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "lola/v1/inference.pb.h"
#include "services/rpc/limits.h"

namespace lola::rpc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

TEST(StreamId, AlphabetAndLength) {
  EXPECT_TRUE(CheckStreamId("stream_id", "a").ok());
  EXPECT_TRUE(CheckStreamId("stream_id", "Agent-7.run:2_b").ok());
  EXPECT_TRUE(CheckStreamId("stream_id", std::string(128, 'x')).ok());
  EXPECT_FALSE(CheckStreamId("stream_id", "").ok());
  EXPECT_FALSE(CheckStreamId("stream_id", std::string(129, 'x')).ok());
  EXPECT_THAT(Text(CheckStreamId("stream_id", "no spaces")),
              AllOf(HasSubstr("stream_id"), HasSubstr("no spaces"), HasSubstr("byte 2")));
}

v1::StreamRequest Open(const std::string& id) {
  v1::StreamRequest request;
  request.mutable_open()->set_stream_id(id);
  return request;
}

TEST(Request, FirstMessageMustBeOpenAndOnlyTheFirst) {
  v1::StreamRequest append;
  append.mutable_append()->set_text("x");
  EXPECT_TRUE(CheckRequest(Open("a"), true, 0).ok());
  EXPECT_FALSE(CheckRequest(append, true, 0).ok());
  EXPECT_TRUE(CheckRequest(append, false, 0).ok());
  EXPECT_FALSE(CheckRequest(Open("a"), false, 0).ok());
  EXPECT_FALSE(CheckRequest(v1::StreamRequest(), false, 0).ok());
}

TEST(Append, TokenIdsAreCheckedAgainstTheVocabulary) {
  v1::AppendOp append;
  append.mutable_tokens()->add_ids(5);
  append.mutable_tokens()->add_ids(272);
  EXPECT_TRUE(CheckAppend(append, 273).ok());
  EXPECT_TRUE(CheckAppend(append, 0).ok()) << "vocabulary not known yet";
  EXPECT_THAT(Text(CheckAppend(append, 272)), AllOf(HasSubstr("ids[1]"), HasSubstr("272")));
  append.mutable_tokens()->set_ids(0, -1);
  EXPECT_THAT(Text(CheckAppend(append, 0)), AllOf(HasSubstr("ids[0]"), HasSubstr("-1")));
}

TEST(Append, SizesAndEmptiness) {
  v1::AppendOp append;
  EXPECT_FALSE(CheckAppend(append, 0).ok());
  append.set_text(std::string(kAppendTextBytesMax, 'x'));
  EXPECT_TRUE(CheckAppend(append, 0).ok());
  append.set_text(std::string(kAppendTextBytesMax + 1, 'x'));
  EXPECT_THAT(Text(CheckAppend(append, 0)),
              AllOf(HasSubstr("append.text"), HasSubstr(std::to_string(kAppendTextBytesMax))));
}

struct BadGenerate {
  const char* field;
  std::function<void(v1::GenerateOp&)> spoil;
};

TEST(Generate, EveryBadFieldIsNamed) {
  const BadGenerate cases[] = {
      {"max_tokens", [](auto& op) { op.set_max_tokens(0); }},
      {"max_tokens", [](auto& op) { op.set_max_tokens(kGenerateTokensMax + 1); }},
      {"stop[0]", [](auto& op) { op.add_stop(""); }},
      {"stop[0]", [](auto& op) { op.add_stop(std::string(kStopStringBytesMax + 1, 's')); }},
      {"stop",
       [](auto& op) {
         for (size_t i = 0; i <= kStopStringsMax; ++i) op.add_stop("s");
       }},
      {"temperature", [](auto& op) { op.mutable_sampling()->set_temperature(-0.5f); }},
      {"temperature", [](auto& op) { op.mutable_sampling()->set_temperature(0.0f / 0.0f); }},
      {"top_p", [](auto& op) { op.mutable_sampling()->set_top_p(1.5f); }},
      {"top_p", [](auto& op) { op.mutable_sampling()->set_top_p(0); }},
      {"repetition_penalty", [](auto& op) { op.mutable_sampling()->set_repetition_penalty(0); }},
  };
  for (const BadGenerate& bad : cases) {
    v1::GenerateOp op;
    op.set_max_tokens(5);
    ASSERT_TRUE(CheckGenerate(op).ok());
    bad.spoil(op);
    const absl::Status status = CheckGenerate(op);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.field;
    EXPECT_THAT(Text(status), HasSubstr(bad.field));
  }
}

TEST(Open, LabelsTenantAndTtlAreBounded) {
  v1::OpenStream open;
  open.set_stream_id("a");
  EXPECT_TRUE(CheckOpen(open).ok());
  open.set_ttl_ms(-1);
  EXPECT_THAT(Text(CheckOpen(open)), HasSubstr("ttl_ms"));
  open.set_ttl_ms(0);
  open.set_tenant("has space");
  EXPECT_THAT(Text(CheckOpen(open)), HasSubstr("tenant"));
  open.clear_tenant();
  for (size_t i = 0; i <= kLabelsMax; ++i) {
    (*open.mutable_labels())["k" + std::to_string(i)] = "v";
  }
  EXPECT_THAT(Text(CheckOpen(open)), HasSubstr("labels"));
}

TEST(Others, MissingAndExcessiveFieldsAreNamed) {
  v1::ForkRequest fork;
  fork.set_stream_id("a");
  EXPECT_THAT(Text(CheckFork(fork)), HasSubstr("new_stream_id"));
  fork.set_new_stream_id("a");
  EXPECT_THAT(Text(CheckFork(fork)), HasSubstr("equals stream_id"));
  v1::ListRequest list;
  list.set_page_size(kListPageMax + 1);
  EXPECT_THAT(Text(CheckList(list)), HasSubstr("page_size"));
  v1::RewindRequest rewind;
  rewind.set_stream_id("a");
  EXPECT_THAT(Text(CheckRewind(rewind)), HasSubstr("to"));
  v1::GenerateRequest generate;
  generate.mutable_open()->set_stream_id("a");
  EXPECT_FALSE(CheckGenerateRequest(generate, 0).ok());
}

}  // namespace
}  // namespace lola::rpc
