// The one place where absl::Status and grpc::Status meet. Codes and messages pass unchanged in both
// directions; details (see below) travel in the binary error-details trailer. Safe from any thread.
#ifndef LOLA_SERVICES_RPC_STATUS_MAP_H_
#define LOLA_SERVICES_RPC_STATUS_MAP_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace grpc {
class Status;
}  // namespace grpc

namespace lola::rpc {

grpc::Status ToGrpc(const absl::Status& status);
// An out-of-range code becomes UNKNOWN and says the number.
absl::Status FromGrpc(const grpc::Status& status);

// A named fact beside the message that programs may act on, such as kOwnerDetail. Keys are
// [a-z0-9_.]+, values hold no line feed; others are dropped. Ignored on an OK status.
inline constexpr char kOwnerDetail[] = "owner";  // who owns the stream now
// With UNAVAILABLE at the end of a stream's call: the worker that answered so. Without it nobody
// did.
inline constexpr char kSpeakerDetail[] = "speaker";
inline constexpr char kRetryAfterMsDetail[] = "retry_after_ms";  // with RESOURCE_EXHAUSTED
void SetDetail(absl::Status& status, std::string_view key, std::string_view value);
std::optional<std::string> GetDetail(const absl::Status& status, std::string_view key);

// Same code and details, `context` and ": " in front of the message. OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_STATUS_MAP_H_
