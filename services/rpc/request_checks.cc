#include "services/rpc/request_checks.h"

#include <cmath>

#include "lola/v1/inference.pb.h"
#include "services/rpc/limits.h"
#include "services/rpc/wire_text.h"

namespace lola::rpc {
namespace {

absl::Status Bad(std::string_view field, const std::string& problem) {
  return absl::InvalidArgumentError(std::string(field) + ": " + problem);
}

absl::Status CheckSize(std::string_view field, size_t bytes, size_t bytes_max) {
  if (bytes <= bytes_max) return absl::OkStatus();
  return Bad(field, std::to_string(bytes) + " bytes, the limit is " + std::to_string(bytes_max));
}

bool IdCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == ':' || c == '-';
}

// Shown in messages: a long value is cut.
std::string Shown(std::string_view text) {
  return "'" + std::string(text.substr(0, 64)) + (text.size() > 64 ? "...'" : "'");
}

template <typename LabelMap>
absl::Status CheckLabels(std::string_view field, const LabelMap& labels) {
  if (labels.size() > kLabelsMax) {
    return Bad(field, std::to_string(labels.size()) + " labels, the limit is " +
                          std::to_string(kLabelsMax));
  }
  for (const auto& [key, value] : labels) {
    if (key.empty()) return Bad(field, "a label key is empty");
    absl::Status status = CheckSize(std::string(field) + " key", key.size(), kLabelKeyBytesMax);
    if (!status.ok()) return status;
    status = CheckSize(std::string(field) + "[" + key + "]", value.size(), kLabelValueBytesMax);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckName(std::string_view field, std::string_view name, size_t bytes_max) {
  if (absl::Status status = CheckSize(field, name.size(), bytes_max); !status.ok()) return status;
  for (size_t i = 0; i < name.size(); ++i) {
    if (!IdCharacter(name[i])) {
      return Bad(field, Shown(name) + " has a character outside [A-Za-z0-9._:-] at byte " +
                            std::to_string(i));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStreamId(std::string_view field, std::string_view id) {
  if (id.empty()) return Bad(field, "is empty; an id is [A-Za-z0-9._:-]{1,128}");
  return CheckName(field, id, kStreamIdBytesMax);
}

absl::Status CheckSampling(std::string_view field, const v1::SamplingParams& sampling) {
  const auto range = [&](const char* name, bool present, double value, double low, double high) {
    if (!present || (value >= low && value <= high)) return absl::OkStatus();
    return Bad(std::string(field) + "." + name, std::to_string(value) + " is outside [" +
                                                    std::to_string(low) + ", " +
                                                    std::to_string(high) + "]");
  };
  absl::Status status =
      range("temperature", sampling.has_temperature(), sampling.temperature(), 0, 100);
  if (!status.ok()) return status;
  status = range("top_p", sampling.has_top_p(), sampling.top_p(), 1e-6, 1);
  if (!status.ok()) return status;
  return range("repetition_penalty", sampling.has_repetition_penalty(),
               sampling.repetition_penalty(), 0.01, 100);
}

absl::Status CheckOpen(const v1::OpenStream& open) {
  absl::Status status = CheckStreamId("open.stream_id", open.stream_id());
  if (!status.ok()) return status;
  status = CheckName("open.tenant", open.tenant(), kTenantBytesMax);
  if (!status.ok()) return status;
  status = CheckLabels("open.labels", open.labels());
  if (!status.ok()) return status;
  if (open.ttl_ms() < 0) {
    return Bad("open.ttl_ms", std::to_string(open.ttl_ms()) + " is negative");
  }
  if (!v1::Durability_IsValid(open.durability())) {
    return Bad("open.durability", std::to_string(open.durability()) + " is unknown");
  }
  return CheckSampling("open.sampling", open.sampling());
}

absl::Status CheckAppend(const v1::AppendOp& append, uint32_t vocab) {
  switch (append.content_case()) {
    case v1::AppendOp::kText: {
      absl::Status status = CheckSize("append.text", append.text().size(), kAppendTextBytesMax);
      if (!status.ok()) return status;
      if (const auto offset = InvalidUtf8Offset(append.text())) {
        return Bad("append.text", "invalid UTF-8 at byte " + std::to_string(*offset));
      }
      return absl::OkStatus();
    }
    case v1::AppendOp::kTokens: {
      const auto& ids = append.tokens().ids();
      if (static_cast<size_t>(ids.size()) > kAppendTokensMax) {
        return Bad("append.tokens", std::to_string(ids.size()) + " tokens, the limit is " +
                                        std::to_string(kAppendTokensMax));
      }
      for (int i = 0; i < ids.size(); ++i) {
        if (ids[i] >= 0 && (vocab == 0 || static_cast<uint32_t>(ids[i]) < vocab)) continue;
        return Bad("append.tokens.ids[" + std::to_string(i) + "]",
                   std::to_string(ids[i]) + " is outside the vocabulary" +
                       (vocab == 0 ? "" : " of " + std::to_string(vocab)));
      }
      return absl::OkStatus();
    }
    case v1::AppendOp::CONTENT_NOT_SET:
      break;
  }
  return Bad("append.content", "is empty; give text or tokens");
}

absl::Status CheckGenerate(const v1::GenerateOp& generate) {
  if (generate.max_tokens() == 0 || generate.max_tokens() > kGenerateTokensMax) {
    return Bad("generate.max_tokens", std::to_string(generate.max_tokens()) + " is outside [1, " +
                                          std::to_string(kGenerateTokensMax) + "]");
  }
  if (static_cast<size_t>(generate.stop_size()) > kStopStringsMax) {
    return Bad("generate.stop", std::to_string(generate.stop_size()) + " strings, the limit is " +
                                    std::to_string(kStopStringsMax));
  }
  for (int i = 0; i < generate.stop_size(); ++i) {
    const std::string field = "generate.stop[" + std::to_string(i) + "]";
    if (generate.stop(i).empty()) return Bad(field, "is empty");
    absl::Status status = CheckSize(field, generate.stop(i).size(), kStopStringBytesMax);
    if (!status.ok()) return status;
  }
  return CheckSampling("generate.sampling", generate.sampling());
}

absl::Status CheckRequest(const v1::StreamRequest& request, bool first, uint32_t vocab) {
  absl::Status status = CheckSize("request_id", request.request_id().size(), kRequestIdBytesMax);
  if (!status.ok()) return status;
  if (first && request.op_case() != v1::StreamRequest::kOpen) {
    return Bad("op", "the first message of a Stream call must be open");
  }
  switch (request.op_case()) {
    case v1::StreamRequest::kOpen:
      if (!first) return Bad("op", "open is allowed as the first message only");
      return CheckOpen(request.open());
    case v1::StreamRequest::kAppend:
      return CheckAppend(request.append(), vocab);
    case v1::StreamRequest::kGenerate:
      return CheckGenerate(request.generate());
    case v1::StreamRequest::kCancel:
      return absl::OkStatus();
    case v1::StreamRequest::OP_NOT_SET:
      break;
  }
  return Bad("op", "is empty; give open, append, generate or cancel");
}

absl::Status CheckGenerateRequest(const v1::GenerateRequest& request, uint32_t vocab) {
  absl::Status status = CheckOpen(request.open());
  if (!status.ok()) return status;
  if (!request.has_append() && !request.has_generate()) {
    return Bad("append, generate", "both are empty; give at least one");
  }
  if (request.has_append()) status = CheckAppend(request.append(), vocab);
  if (status.ok() && request.has_generate()) status = CheckGenerate(request.generate());
  return status;
}

absl::Status CheckDrainDeadline(std::string_view field, int64_t deadline_ms) {
  if (deadline_ms >= 0 && deadline_ms <= kDrainDeadlineMsMax) return absl::OkStatus();
  return Bad(field, std::to_string(deadline_ms) + " is outside [0, " +
                        std::to_string(kDrainDeadlineMsMax) + "]");
}

absl::Status CheckFork(const v1::ForkRequest& request) {
  absl::Status status = CheckStreamId("stream_id", request.stream_id());
  if (!status.ok()) return status;
  status = CheckStreamId("new_stream_id", request.new_stream_id());
  if (!status.ok()) return status;
  if (request.stream_id() == request.new_stream_id()) {
    return Bad("new_stream_id", Shown(request.new_stream_id()) + " equals stream_id");
  }
  status = CheckSize("request_id", request.request_id().size(), kRequestIdBytesMax);
  if (!status.ok()) return status;
  return CheckLabels("labels", request.labels());
}

absl::Status CheckList(const v1::ListRequest& request) {
  if (request.page_size() > kListPageMax) {
    return Bad("page_size", std::to_string(request.page_size()) + ", the limit is " +
                                std::to_string(kListPageMax));
  }
  absl::Status status = CheckName("id_prefix", request.id_prefix(), kStreamIdBytesMax);
  if (!status.ok()) return status;
  return CheckLabels("labels", request.labels());
}

absl::Status CheckSnapshot(const v1::SnapshotRequest& request) {
  absl::Status status = CheckStreamId("stream_id", request.stream_id());
  if (!status.ok()) return status;
  return CheckName("name", request.name(), kSnapshotNameBytesMax);
}

absl::Status CheckRewind(const v1::RewindRequest& request) {
  absl::Status status = CheckStreamId("stream_id", request.stream_id());
  if (!status.ok()) return status;
  if (request.to_case() == v1::RewindRequest::TO_NOT_SET) {
    return Bad("to", "is empty; give position or snapshot_name");
  }
  status = CheckSize("request_id", request.request_id().size(), kRequestIdBytesMax);
  if (!status.ok()) return status;
  if (request.to_case() == v1::RewindRequest::kPosition) return absl::OkStatus();
  if (request.snapshot_name().empty()) return Bad("snapshot_name", "is empty");
  return CheckName("snapshot_name", request.snapshot_name(), kSnapshotNameBytesMax);
}

}  // namespace lola::rpc
