#include "memory/store/request_check.h"

#include <string>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "memory/ids.h"
#include "memory/limits.h"

namespace lola::store {
namespace {

using absl::InvalidArgumentError;
using absl::StrCat;

absl::Status CheckBytes(const char* field, const std::string& value, size_t bytes_max) {
  if (value.size() <= bytes_max) return absl::OkStatus();
  return InvalidArgumentError(StrCat(field, ": ", memory::Quoted(value), " has ", value.size(),
                                     " bytes, at most ", bytes_max, " are allowed"));
}

absl::Status CheckRange(const char* field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return InvalidArgumentError(StrCat(field, ": is ", value, ", wants ", min, " to ", max));
}

template <typename Labels>
absl::Status CheckLabels(const Labels& labels) {
  if (labels.size() > memory::kLabelsMax) {
    return InvalidArgumentError(StrCat("labels: has ", labels.size(), " entries, at most ",
                                       memory::kLabelsMax, " are allowed"));
  }
  for (const auto& [key, value] : labels) {
    if (key.empty()) return InvalidArgumentError("labels: a key is empty");
    if (absl::Status status = CheckBytes("labels: key", key, memory::kLabelKeyBytesMax);
        !status.ok()) {
      return status;
    }
    if (absl::Status status = CheckBytes("labels: value", value, memory::kLabelValueBytesMax);
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status First(std::initializer_list<absl::Status> checks) {
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// A stream without a parent is not a copy.
absl::Status CheckCopy(const v1::CreateStreamRequest& request) {
  if (request.parent().empty()) {
    if (request.forked_at() == 0 && !request.unfinished()) return absl::OkStatus();
    return InvalidArgumentError(StrCat("parent: is empty, forked_at is ", request.forked_at(),
                                       ", unfinished is ", request.unfinished()));
  }
  if (request.unfinished() && request.request_id().empty()) {
    return InvalidArgumentError("request_id: is empty, unfinished needs one");
  }
  if (request.forked_at() > memory::kPositionMax) {
    return InvalidArgumentError(
        StrCat("forked_at: ", request.forked_at(), " is beyond ", memory::kPositionMax));
  }
  return memory::ValidateStreamId("parent", request.parent());
}

}  // namespace

absl::Status CheckCreate(const v1::CreateStreamRequest& request) {
  if (request.state_bytes() > memory::kStateBytesMax) {
    return InvalidArgumentError(StrCat("state_bytes: is ", request.state_bytes(), ", at most ",
                                       memory::kStateBytesMax, " is allowed"));
  }
  if (absl::Status status = CheckCopy(request); !status.ok()) return status;
  return First({memory::ValidateStreamId("stream_id", request.stream_id()),
                CheckBytes("tenant", request.tenant(), memory::kTenantBytesMax),
                CheckBytes("request_id", request.request_id(), memory::kRequestIdBytesMax),
                CheckBytes("model_fingerprint", request.model_fingerprint(),
                           memory::kModelFingerprintBytesMax),
                CheckRange("ttl_ms", request.ttl_ms(), 0, memory::kTtlMsMax),
                CheckLabels(request.labels())});
}

absl::Status CheckAcquire(const v1::AcquireRequest& request) {
  if (request.worker().empty()) return InvalidArgumentError("worker: is empty");
  if (request.worker_instance().empty()) return InvalidArgumentError("worker_instance: is empty");
  return First(
      {CheckBytes("worker", request.worker(), memory::kWorkerAddressBytesMax),
       CheckBytes("worker_instance", request.worker_instance(), memory::kWorkerAddressBytesMax),
       CheckBytes("instruction_class", request.instruction_class(),
                  memory::kInstructionClassBytesMax),
       CheckRange("lease_ms", request.lease_ms(), memory::kLeaseMsMin, memory::kLeaseMsMax)});
}

absl::Status CheckRenew(const v1::RenewRequest& request) {
  if (request.worker_instance().empty()) return InvalidArgumentError("worker_instance: is empty");
  return CheckRange("lease_ms", request.lease_ms(), memory::kLeaseMsMin, memory::kLeaseMsMax);
}

absl::Status CheckFork(const v1::ForkStreamRequest& request) {
  if (request.stream_id() == request.new_stream_id()) {
    return InvalidArgumentError(StrCat("new_stream_id: ", memory::Quoted(request.new_stream_id()),
                                       " is the forked stream itself"));
  }
  return First({memory::ValidateStreamId("new_stream_id", request.new_stream_id()),
                CheckBytes("request_id", request.request_id(), memory::kRequestIdBytesMax),
                CheckLabels(request.labels())});
}

absl::Status CheckRewind(const v1::RewindStreamRequest& request) {
  return CheckBytes("request_id", request.request_id(), memory::kRequestIdBytesMax);
}

absl::Status CheckSnapshotHeader(const v1::PutSnapshotHeader& header) {
  constexpr size_t kDigestBytes = 16;
  if (header.digest().size() != kDigestBytes) {
    return InvalidArgumentError(
        StrCat("digest: has ", header.digest().size(), " bytes, wants ", kDigestBytes));
  }
  if (header.size_bytes() == 0 || header.size_bytes() > memory::kSnapshotBytesMax) {
    return InvalidArgumentError(
        StrCat("size_bytes: is ", header.size_bytes(), ", wants 1 to ", memory::kSnapshotBytesMax));
  }
  if (header.state_position() > header.position()) {
    return InvalidArgumentError(StrCat("state_position: is ", header.state_position(),
                                       ", behind position ", header.position()));
  }
  if (size_t(header.instruction_classes_size()) > memory::kInstructionClassesMax) {
    return InvalidArgumentError(StrCat("instruction_classes: ", header.instruction_classes_size(),
                                       ", at most ", memory::kInstructionClassesMax,
                                       " are allowed"));
  }
  for (const std::string& name : header.instruction_classes()) {
    absl::Status status =
        CheckBytes("instruction_classes", name, memory::kInstructionClassBytesMax);
    if (!status.ok()) return status;
  }
  if (header.name().empty()) return absl::OkStatus();
  return memory::ValidateSnapshotName(header.name());
}

absl::Status CheckAppendBatch(const v1::AppendBatchRequest& request) {
  if (size_t(request.entries_size()) > memory::kAppendEntriesMax) {
    return absl::ResourceExhaustedError(StrCat("entries: has ", request.entries_size(),
                                               ", at most ", memory::kAppendEntriesMax,
                                               " fit in one call"));
  }
  size_t tokens = 0;
  std::unordered_set<std::string> ids;
  for (const v1::AppendEntry& entry : request.entries()) {
    if (!ids.insert(entry.stream_id()).second) {
      return InvalidArgumentError(
          StrCat("entries: stream ", memory::Quoted(entry.stream_id()), " is named twice"));
    }
    for (const v1::TokenRun& run : entry.runs()) tokens += size_t(run.ids_size());
  }
  if (tokens > memory::kAppendTokensMax) {
    return absl::ResourceExhaustedError(StrCat("entries: ", tokens, " tokens, at most ",
                                               memory::kAppendTokensMax, " fit in one call"));
  }
  return absl::OkStatus();
}

absl::Status CheckAppendEntry(const v1::AppendEntry& entry) {
  if (entry.runs_size() == 0) return InvalidArgumentError("runs: is empty");
  uint64_t position = entry.runs(0).position();
  if (position > memory::kPositionMax) {
    return InvalidArgumentError(
        StrCat("position: ", position, " is beyond ", memory::kPositionMax));
  }
  for (const v1::TokenRun& run : entry.runs()) {
    if (run.position() != position) {
      return InvalidArgumentError(StrCat("runs: a run starts at position ", run.position(),
                                         ", the one before ends at ", position));
    }
    if (run.ids_size() == 0) {
      return InvalidArgumentError(StrCat("runs: the run at position ", position, " is empty"));
    }
    if (run.author() != v1::TOKEN_AUTHOR_CLIENT && run.author() != v1::TOKEN_AUTHOR_MODEL) {
      return InvalidArgumentError(StrCat("author: is ", int(run.author()), " at position ",
                                         position, ", wants client or model"));
    }
    for (const int32_t id : run.ids()) {
      if (id < 0) {
        return InvalidArgumentError(
            StrCat("ids: token ", id, " at position ", position, " is negative"));
      }
    }
    position += uint64_t(run.ids_size());
    if (position > memory::kPositionMax) {
      return InvalidArgumentError(
          StrCat("position: ", position, " is beyond ", memory::kPositionMax));
    }
  }
  return absl::OkStatus();
}

}  // namespace lola::store
