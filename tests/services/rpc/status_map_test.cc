#include "services/rpc/status_map.h"

#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

namespace lola::rpc {
namespace {

TEST(StatusMap, EveryCodeSurvivesBothDirections) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why " + std::to_string(code));
    const grpc::Status wire = ToGrpc(status);
    EXPECT_EQ(wire.error_code(), code);
    EXPECT_EQ(wire.error_message(), status.message());
    EXPECT_EQ(FromGrpc(wire), status);
  }
}

TEST(StatusMap, NamesOfCodesAgree) {
  EXPECT_EQ(ToGrpc(absl::NotFoundError("x")).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ToGrpc(absl::DataLossError("x")).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(ToGrpc(absl::UnauthenticatedError("x")).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ToGrpc(absl::FailedPreconditionError("x")).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST(StatusMap, OkIsOk) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

TEST(StatusMap, UnknownNumberBecomesUnknownAndSaysIt) {
  // No code, but a value the enumeration can hold.
  const absl::Status status = FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(30), "odd"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_NE(status.message().find("30"), absl::string_view::npos);
}

TEST(StatusMap, DetailsTravel) {
  absl::Status status = absl::FailedPreconditionError("owned");
  SetDetail(status, kOwnerDetail, "127.0.0.1:50061");
  SetDetail(status, kRetryAfterMsDetail, "200");
  const absl::Status back = FromGrpc(ToGrpc(status));
  EXPECT_EQ(GetDetail(back, kOwnerDetail), "127.0.0.1:50061");
  EXPECT_EQ(GetDetail(back, kRetryAfterMsDetail), "200");
  EXPECT_EQ(GetDetail(back, "other"), std::nullopt);
}

TEST(StatusMap, DetailsThatCouldForgeOthersAreDropped) {
  absl::Status status = absl::InternalError("x");
  SetDetail(status, kOwnerDetail, "a\nretry_after_ms=1");
  SetDetail(status, "bad key=", "a");
  EXPECT_EQ(GetDetail(FromGrpc(ToGrpc(status)), kRetryAfterMsDetail), std::nullopt);
  EXPECT_EQ(GetDetail(status, kOwnerDetail), std::nullopt);
}

TEST(StatusMap, BrokenDetailBytesAreIgnored) {
  const grpc::Status wire(grpc::StatusCode::ABORTED, "x",
                          std::string("\x01\xff=\n=\n\nowner=a", 14));
  EXPECT_EQ(GetDetail(FromGrpc(wire), kOwnerDetail), "a");
}

TEST(Annotate, KeepsCodeAndDetails) {
  absl::Status status = absl::AbortedError("stale");
  SetDetail(status, kOwnerDetail, "w");
  const absl::Status longer = Annotate(status, "worker w");
  EXPECT_EQ(longer.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(longer.message(), "worker w: stale");
  EXPECT_EQ(GetDetail(longer, kOwnerDetail), "w");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok());
}

}  // namespace
}  // namespace lola::rpc
