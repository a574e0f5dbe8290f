#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "memory/env/random.h"
#include "memory/store/keys.h"
#include "memory/store/request_check.h"
#include "memory/store/store_impl.h"

namespace lola::store {
namespace {

// Records looked at for one page: a rare label must not make one call read the whole shard.
constexpr size_t kListScanMax = 20'000;
// Of one page, about: a reply must fit into one message of 8 MiB.
constexpr size_t kListBytesMax = size_t{4} << 20;

bool Matches(const StreamRecord& record, const v1::ListStreamsRequest& request) {
  for (const auto& [key, value] : request.labels()) {
    const auto found = record.labels().find(key);
    if (found == record.labels().end() || found->second != value) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<v1::StreamInfo> StoreImpl::Create(const v1::CreateStreamRequest& request) {
  if (absl::Status status = CheckCreate(request); !status.ok()) return status;
  auto stream = table_->Lock(request.stream_id());
  if (!stream.ok()) return stream.status();
  StreamEntry& entry = **stream;
  if (entry.exists) {
    if (!request.request_id().empty() && entry.record.request_id() == request.request_id()) {
      return ToInfo(entry);
    }
    return absl::AlreadyExistsError(absl::StrCat(
        "stream ", memory::Quoted(request.stream_id()), " exists, made by request ",
        memory::Quoted(entry.record.request_id()), ", not ", memory::Quoted(request.request_id())));
  }
  if (const uint64_t streams = Stats().streams; streams >= options_.streams_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("streams: this shard holds ", streams, ", at most ", options_.streams_max));
  }
  auto log_id = NewLogId();
  if (!log_id.ok()) return log_id.status();
  StreamRecord record;
  record.set_stream_id(request.stream_id());
  record.set_stream_uid(memory::NewUid());
  record.set_tenant(request.tenant());
  *record.mutable_labels() = request.labels();
  record.set_model_fingerprint(request.model_fingerprint());
  *record.mutable_settings() = request.settings();
  *record.mutable_sampling() = request.sampling();
  record.set_request_id(request.request_id());
  record.set_ttl_ms(request.ttl_ms());
  record.set_state_bytes(request.state_bytes());
  record.set_parent(request.parent());
  record.set_forked_at(request.forked_at());
  record.set_unfinished(request.unfinished());
  record.set_created_unix_ms(options_.clock->UnixMs());
  record.set_last_used_unix_ms(record.created_unix_ms());
  record.add_log()->set_log_id(*log_id);
  LOLA_FAILPOINT("store.create.before_commit");
  if (absl::Status status = Publish(entry, std::move(record), 0); !status.ok()) return status;
  LOLA_FAILPOINT("store.create.after_commit");
  return ToInfo(entry);
}

absl::StatusOr<v1::StreamInfo> StoreImpl::Describe(std::string_view stream_id) {
  auto stream = LockFinished(stream_id);
  if (!stream.ok()) return stream.status();
  return ToInfo(**stream);
}

absl::StatusOr<v1::ListStreamsReply> StoreImpl::List(const v1::ListStreamsRequest& request) {
  const uint32_t page_size =
      request.page_size() == 0 ? memory::kListPageDefault : request.page_size();
  if (page_size > memory::kListPageMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size: is ", request.page_size(), ", at most ", memory::kListPageMax));
  }
  // Ids first, without a stream's lock: the scan holds none of ours.
  std::vector<std::string> ids;
  std::string next;
  size_t scanned = 0;
  absl::Status problem = absl::OkStatus();
  const std::string prefix = StreamKey(request.id_prefix());
  const std::string from =
      request.page_token().empty() ? "" : StreamKey(request.page_token()) + '\0';
  std::string last;
  absl::Status status = db_->Scan(prefix, from, [&](std::string_view key, std::string_view value) {
    if (ids.size() == page_size || scanned == kListScanMax) {
      next = last;
      return false;
    }
    ++scanned;
    last = std::string(key.substr(1));
    StreamRecord record;
    if (!record.ParseFromArray(value.data(), int(value.size()))) {
      problem = absl::DataLossError(
          absl::StrCat("record of stream ", memory::Quoted(last), " cannot be read"));
      return false;
    }
    if (!record.unfinished() && Matches(record, request)) ids.push_back(last);
    return true;
  });
  if (!problem.ok()) return problem;
  if (!status.ok()) return status;
  v1::ListStreamsReply reply;
  size_t bytes = 0;
  for (const std::string& id : ids) {
    auto stream = table_->Lock(id);
    if (!stream.ok()) return stream.status();
    if (!stream->exists()) continue;
    *reply.add_streams() = ToInfo(**stream);
    bytes += reply.streams().rbegin()->ByteSizeLong();
    if (bytes < kListBytesMax || id == ids.back()) continue;
    next = id;
    break;
  }
  reply.set_next_page_token(next);
  return reply;
}

}  // namespace lola::store
