#include "services/gateway/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/rpc/limits.h"

namespace lola::gateway {
namespace {

using ::testing::HasSubstr;

class SessionTest : public ::testing::Test {
 protected:
  static v1::StreamRequest Open() {
    v1::StreamRequest request;
    request.set_request_id("open-1");
    request.mutable_open()->set_stream_id("s");
    request.mutable_open()->set_create_if_missing(true);
    return request;
  }
  static v1::StreamRequest Append(const std::string& id, const std::string& text) {
    v1::StreamRequest request;
    request.set_request_id(id);
    request.mutable_append()->set_text(text);
    return request;
  }
  static v1::StreamRequest Generate(const std::string& id) {
    v1::StreamRequest request;
    request.set_request_id(id);
    request.mutable_generate()->set_max_tokens(10);
    return request;
  }
  static v1::ServeReply Opened(uint64_t position, const std::string& worker) {
    v1::ServeReply reply;
    reply.mutable_opened()->set_position(position);
    reply.mutable_opened()->mutable_restore()->set_worker(worker);
    return reply;
  }
  static v1::ServeReply Tokens(uint64_t seq, uint64_t position, int count,
                               v1::TokenAuthor author = v1::TOKEN_AUTHOR_MODEL) {
    v1::ServeReply reply;
    reply.set_seq(seq);
    reply.mutable_tokens()->set_position(position);
    reply.mutable_tokens()->set_author(author);
    for (int i = 0; i < count; ++i) reply.mutable_tokens()->add_ids(i);
    return reply;
  }
  static v1::ServeReply Done(uint64_t seq, uint64_t position) {
    v1::ServeReply reply;
    reply.set_seq(seq);
    reply.mutable_done()->set_position(position);
    return reply;
  }

  // The replies for the client; the status must be OK.
  std::vector<v1::StreamReply> Give(v1::ServeReply reply) {
    std::vector<v1::StreamReply> replies;
    const absl::Status status = session_.OnReply(std::move(reply), &replies);
    EXPECT_TRUE(status.ok()) << status;
    return replies;
  }
  absl::Status Refused(v1::ServeReply reply) {
    std::vector<v1::StreamReply> replies;
    const absl::Status status = session_.OnReply(std::move(reply), &replies);
    EXPECT_TRUE(replies.empty());
    return status;
  }

  GatewayCounts counts_;
  Session session_{Open(), &counts_};
};

TEST_F(SessionTest, OperationsWaitForOpenedAndGoInOrderWithoutBase) {
  session_.Attach(false);
  session_.AddRequest(Append("a", "x"));
  session_.AddRequest(Generate("g"));
  EXPECT_FALSE(session_.NextToWorker().has_value());
  EXPECT_EQ(Give(Opened(5, "w1")).front().request_id(), "open-1");
  auto first = session_.NextToWorker();
  auto second = session_.NextToWorker();
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_EQ(first->run().seq(), 1u);
  EXPECT_TRUE(first->run().has_append());
  EXPECT_FALSE(first->run().has_base());
  EXPECT_EQ(second->run().seq(), 2u);
  EXPECT_FALSE(session_.NextToWorker().has_value());
}

TEST_F(SessionTest, RepliesCarryTheRequestIdOfTheirOperation) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Append("a", "x"));
  session_.AddRequest(Generate("g"));
  EXPECT_EQ(Give(Done(1, 3)).front().request_id(), "a");
  EXPECT_EQ(Give(Tokens(2, 3, 2)).front().request_id(), "g");
  EXPECT_EQ(Give(Done(2, 5)).front().request_id(), "g");
  EXPECT_TRUE(session_.idle());
  EXPECT_EQ(session_.delivered(), 5u);
}

TEST_F(SessionTest, DuplicateTokensAreAnInternalErrorAndCounted) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Generate("g"));
  Give(Tokens(1, 0, 4));
  EXPECT_EQ(Refused(Tokens(1, 3, 1)).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(counts_.position_duplicates, 1u);
}

TEST_F(SessionTest, GapInsideAGenerationIsAnInternalErrorAndCounted) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Generate("g"));
  Give(Tokens(1, 0, 4));
  const absl::Status status = Refused(Tokens(1, 6, 1));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("position 6"));
  EXPECT_EQ(counts_.position_gaps, 1u);
}

TEST_F(SessionTest, DoneBeyondTheDeliveredTokensIsAGap) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Generate("g"));
  Give(Tokens(1, 0, 4));
  EXPECT_EQ(Refused(Done(1, 6)).code(), absl::StatusCode::kInternal);
}

TEST_F(SessionTest, ReattachAsksForWhatWasNotDeliveredAndSendsOperationsAgainOneByOne) {
  session_.Attach(false);
  Give(Opened(10, "w1"));
  session_.AddRequest(Append("a", "x"));
  session_.AddRequest(Generate("g"));
  session_.NextToWorker();
  session_.NextToWorker();
  // The worker dies with both operations under way.
  const v1::ServeRequest attach = session_.Attach(true);
  EXPECT_TRUE(attach.attach().takeover());
  EXPECT_EQ(attach.attach().open().after_position(), 10u);
  EXPECT_FALSE(attach.attach().open().create_if_missing());
  v1::ServeReply moved = Opened(13, "w2");
  v1::RestoreReport& restore = *moved.mutable_opened()->mutable_restore();
  restore.set_continuation(v1::RestoreReport::CONTINUATION_TOLERANCE);
  restore.set_instruction_class("cuda-sm90");
  restore.add_computed_by("avx2");
  const auto notice = Give(std::move(moved));
  EXPECT_EQ(notice.front().notice().kind(), v1::Notice::KIND_MOVED);
  EXPECT_NE(notice.front().notice().text().find("computed by avx2, goes on with cuda-sm90"),
            std::string::npos)
      << notice.front().notice().text();
  EXPECT_EQ(notice.front().notice().restore().continuation(),
            v1::RestoreReport::CONTINUATION_TOLERANCE);
  // Its own append came back in the replay: not news for the client.
  EXPECT_TRUE(Give(Tokens(0, 10, 3, v1::TOKEN_AUTHOR_CLIENT)).empty());
  auto append = session_.NextToWorker();
  ASSERT_TRUE(append.has_value());
  EXPECT_TRUE(append->run().has_base());
  EXPECT_EQ(append->run().base_position(), 10u);
  EXPECT_FALSE(session_.NextToWorker().has_value()) << "the next base is not known yet";
  Give(Done(1, 13));
  auto generate = session_.NextToWorker();
  ASSERT_TRUE(generate.has_value());
  EXPECT_EQ(generate->run().base_position(), 13u);
}

TEST_F(SessionTest, GenerationCutInTheMiddleGoesOnUnderItsRequestId) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Generate("g"));
  session_.NextToWorker();
  Give(Tokens(1, 0, 4));
  EXPECT_EQ(session_.Attach(true).attach().open().after_position(), 4u);
  Give(Opened(6, "w2"));
  const auto replayed = Give(Tokens(0, 4, 2));  // logged but never delivered
  EXPECT_EQ(replayed.front().request_id(), "g");
  auto again = session_.NextToWorker();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->run().base_position(), 0u);
  Give(Tokens(1, 6, 4));
  Give(Done(1, 10));
  EXPECT_TRUE(session_.idle());
}

TEST_F(SessionTest, OperationThatWasCutIsResumedNotReplayed) {
  EXPECT_FALSE(session_.Attach(false).attach().open().resume());
  Give(Opened(0, "w1"));
  EXPECT_FALSE(session_.Attach(false).attach().open().resume()) << "nothing was under way";
  Give(Opened(0, "w2"));
  session_.AddRequest(Generate("g"));
  EXPECT_FALSE(session_.Attach(false).attach().open().resume()) << "it was not sent yet";
  Give(Opened(0, "w1"));
  session_.NextToWorker();
  Give(Tokens(1, 0, 4));
  const v1::OpenStream again = session_.Attach(true).attach().open();
  EXPECT_TRUE(again.resume());
  EXPECT_EQ(again.after_position(), 4u);
  Give(Opened(6, "w2"));
  EXPECT_EQ(session_.NextToWorker()->run().base_position(), 0u);
  Give(Tokens(1, 4, 6));
  Give(Done(1, 10));
  EXPECT_FALSE(session_.Attach(false).attach().open().resume());
}

TEST_F(SessionTest, HistoryThatWasAskedForIsReplayedBeforeAnythingIsResumed) {
  v1::StreamRequest open = Open();
  open.mutable_open()->set_after_position(2);
  Session session(open, &counts_);
  std::vector<v1::StreamReply> replies;
  session.Attach(false);
  ASSERT_TRUE(session.OnReply(Opened(9, "w1"), &replies).ok());
  session.AddRequest(Generate("g"));
  session.NextToWorker();
  ASSERT_TRUE(session.OnReply(Tokens(0, 2, 3), &replies).ok());
  const v1::OpenStream again = session.Attach(true).attach().open();
  EXPECT_EQ(again.after_position(), 5u);
  EXPECT_FALSE(again.resume()) << "positions 5 to 8 would be lost";
}

TEST_F(SessionTest, ClientThatResumesIsResumedUntilItsOperationIsDone) {
  v1::StreamRequest open = Open();
  open.mutable_open()->set_after_position(3);
  open.mutable_open()->set_resume(true);
  Session session(open, &counts_);
  std::vector<v1::StreamReply> replies;
  EXPECT_TRUE(session.Attach(false).attach().open().resume());
  ASSERT_TRUE(session.OnReply(Opened(5, "w1"), &replies).ok());
  EXPECT_TRUE(session.Attach(false).attach().open().resume()) << "its operation is still to come";
  ASSERT_TRUE(session.OnReply(Opened(5, "w1"), &replies).ok());
  session.AddRequest(Generate("g"));
  session.NextToWorker();
  ASSERT_TRUE(session.OnReply(Tokens(1, 3, 2), &replies).ok());
  ASSERT_TRUE(session.OnReply(Done(1, 5), &replies).ok());
  EXPECT_FALSE(session.Attach(false).attach().open().resume());
}

TEST_F(SessionTest, LastTextOfACancelledGenerationIsPassedOnOnce) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Generate("g"));
  session_.NextToWorker();
  Give(Tokens(1, 0, 4));
  v1::ServeReply last = Tokens(1, 4, 0);
  last.mutable_tokens()->set_text("held");
  EXPECT_EQ(Give(last).size(), 1u);
  session_.Attach(true);  // the worker dies before its done
  Give(Opened(4, "w2"));
  session_.NextToWorker();
  EXPECT_TRUE(Give(last).empty());
  EXPECT_EQ(Give(Done(1, 4)).size(), 1u);
}

TEST_F(SessionTest, ReplayedTokensMustFollowOnWhatWasDelivered) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Generate("g"));
  session_.NextToWorker();
  Give(Tokens(1, 0, 4));
  session_.Attach(true);
  Give(Opened(6, "w2"));
  EXPECT_EQ(Refused(Tokens(0, 5, 1)).code(), absl::StatusCode::kInternal);
}

TEST_F(SessionTest, NewOperationsAfterAMoveAreSentAheadAgain) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Append("a", "x"));
  session_.NextToWorker();
  session_.Attach(true);
  Give(Opened(0, "w2"));
  session_.NextToWorker();
  session_.AddRequest(Append("b", "y"));
  EXPECT_FALSE(session_.NextToWorker().has_value()) << "waits for the one that is repeated";
  Give(Done(1, 1));
  auto b = session_.NextToWorker();
  ASSERT_TRUE(b.has_value());
  EXPECT_FALSE(b->run().has_base());
}

TEST_F(SessionTest, RewoundBelowWhatWasDeliveredIsRefused) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Generate("g"));
  session_.NextToWorker();
  Give(Tokens(1, 0, 4));
  session_.Attach(false);
  EXPECT_EQ(Refused(Opened(2, "w2")).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(SessionTest, CancelReachesTheRunningGenerationOnceAndSurvivesAMove) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  session_.AddRequest(Generate("g"));
  session_.NextToWorker();
  v1::StreamRequest cancel;
  cancel.mutable_cancel();
  session_.AddRequest(cancel);
  auto message = session_.NextToWorker();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->cancel_seq(), 1u);
  EXPECT_FALSE(session_.NextToWorker().has_value());
  session_.Attach(true);
  Give(Opened(0, "w2"));
  auto again = session_.NextToWorker();
  ASSERT_TRUE(again.has_value());
  EXPECT_TRUE(again->run().cancelled());
}

TEST_F(SessionTest, ClientsOwnAfterPositionIsReplayedToItWhole) {
  v1::StreamRequest open = Open();
  open.mutable_open()->set_after_position(2);
  Session session(open, &counts_);
  EXPECT_EQ(session.Attach(false).attach().open().after_position(), 2u);
  std::vector<v1::StreamReply> replies;
  ASSERT_TRUE(session.OnReply(Opened(5, "w1"), &replies).ok());
  ASSERT_TRUE(session.OnReply(Tokens(0, 2, 1, v1::TOKEN_AUTHOR_CLIENT), &replies).ok());
  ASSERT_TRUE(session.OnReply(Tokens(0, 3, 2), &replies).ok());
  EXPECT_EQ(replies.size(), 3u);
  EXPECT_EQ(session.delivered(), 5u);
}

// The worker dies in the middle of that replay: the next one goes on where it was.
TEST_F(SessionTest, AReplayThatWasCutGoesOnWithTheClientsOwnTokens) {
  v1::StreamRequest open = Open();
  open.mutable_open()->set_after_position(2);
  Session session(open, &counts_);
  session.Attach(false);
  std::vector<v1::StreamReply> replies;
  ASSERT_TRUE(session.OnReply(Opened(10, "w1"), &replies).ok());
  ASSERT_TRUE(session.OnReply(Tokens(0, 2, 3, v1::TOKEN_AUTHOR_CLIENT), &replies).ok());
  session.AddRequest(Append("a", "x"));
  session.AddRequest(Generate("g"));
  while (session.NextToWorker()) continue;
  EXPECT_EQ(session.Attach(true).attach().open().after_position(), 5u);
  ASSERT_TRUE(session.OnReply(Opened(14, "w2"), &replies).ok());
  replies.clear();
  ASSERT_TRUE(session.OnReply(Tokens(0, 5, 2, v1::TOKEN_AUTHOR_CLIENT), &replies).ok());
  ASSERT_TRUE(session.OnReply(Tokens(0, 7, 3), &replies).ok());
  ASSERT_EQ(replies.size(), 2u) << "nothing of what was asked for may be missing";
  EXPECT_EQ(replies[0].request_id(), "open-1");
  EXPECT_EQ(replies[1].request_id(), "open-1") << "it was there before the generation";
  // Its own append is no news; its generation goes on under its own name.
  ASSERT_TRUE(session.OnReply(Tokens(0, 10, 2, v1::TOKEN_AUTHOR_CLIENT), &replies).ok());
  EXPECT_EQ(replies.size(), 2u);
  ASSERT_TRUE(session.OnReply(Tokens(0, 12, 2), &replies).ok());
  ASSERT_EQ(replies.size(), 3u);
  EXPECT_EQ(replies[2].request_id(), "g");
}

TEST_F(SessionTest, OperationsInFlightAreBounded) {
  while (session_.CanTakeMore()) session_.AddRequest(Append("a", "x"));
  Session large(Open(), &counts_);
  size_t added = 0;
  while (large.CanTakeMore()) {
    large.AddRequest(Append("a", std::string(1 << 20, 'x')));
    ++added;
  }
  EXPECT_LE(added, rpc::kOpBytesInFlightMax / (1 << 20) + 1);
}

TEST_F(SessionTest, DoneOutOfOrderIsRefused) {
  session_.Attach(false);
  Give(Opened(0, "w1"));
  EXPECT_EQ(Refused(Done(1, 1)).code(), absl::StatusCode::kInternal);
  session_.AddRequest(Append("a", "x"));
  session_.AddRequest(Append("b", "x"));
  EXPECT_EQ(Refused(Done(2, 1)).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Refused(Tokens(9, 0, 1)).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace lola::gateway
