// Checks of what clients send, before anything is done with it: ids, sizes, ranges (see limits.h).
// Pure functions, safe from any thread. Errors: INVALID_ARGUMENT that names the field, its value
// and the limit.
#ifndef LOLA_SERVICES_RPC_REQUEST_CHECKS_H_
#define LOLA_SERVICES_RPC_REQUEST_CHECKS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace lola::v1 {
class AppendOp;
class ForkRequest;
class GenerateOp;
class GenerateRequest;
class ListRequest;
class OpenStream;
class RewindRequest;
class SamplingParams;
class SnapshotRequest;
class StreamRequest;
}  // namespace lola::v1

namespace lola::rpc {

// [A-Za-z0-9._:-]{1,128}
absl::Status CheckStreamId(std::string_view field, std::string_view id);
// The same alphabet; may be empty.
absl::Status CheckName(std::string_view field, std::string_view name, size_t bytes_max);

absl::Status CheckSampling(std::string_view field, const v1::SamplingParams& sampling);
absl::Status CheckOpen(const v1::OpenStream& open);
// `vocab` = 0: ids are checked for >= 0 only.
absl::Status CheckAppend(const v1::AppendOp& append, uint32_t vocab);
absl::Status CheckGenerate(const v1::GenerateOp& generate);
// Any message after the first; the first must be open.
absl::Status CheckRequest(const v1::StreamRequest& request, bool first, uint32_t vocab);
absl::Status CheckGenerateRequest(const v1::GenerateRequest& request, uint32_t vocab);

// 0: the server's default.
absl::Status CheckDrainDeadline(std::string_view field, int64_t deadline_ms);
absl::Status CheckFork(const v1::ForkRequest& request);
absl::Status CheckList(const v1::ListRequest& request);
absl::Status CheckSnapshot(const v1::SnapshotRequest& request);
absl::Status CheckRewind(const v1::RewindRequest& request);

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_REQUEST_CHECKS_H_
