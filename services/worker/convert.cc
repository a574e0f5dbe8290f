#include "services/worker/convert.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/cpu.h"
#include "memory/stream/layout.h"
#include "services/engine/weights.h"
#include "services/rpc/limits.h"

namespace lola::worker {

engine::SamplingOverrides FromProto(const v1::SamplingParams& message) {
  engine::SamplingOverrides sampling;
  if (message.has_temperature()) sampling.temperature = message.temperature();
  if (message.has_top_k()) sampling.top_k = message.top_k();
  if (message.has_top_p()) sampling.top_p = message.top_p();
  if (message.has_repetition_penalty()) sampling.repetition_penalty = message.repetition_penalty();
  if (message.has_repetition_window()) sampling.repetition_window = message.repetition_window();
  if (message.has_seed()) sampling.seed = message.seed();
  return sampling;
}

v1::SamplingParams ToProto(const engine::SamplingParams& sampling) {
  v1::SamplingParams message;
  message.set_temperature(sampling.temperature);
  message.set_top_k(sampling.top_k);
  message.set_top_p(sampling.top_p);
  message.set_repetition_penalty(sampling.repetition_penalty);
  message.set_repetition_window(sampling.repetition_window);
  message.set_seed(sampling.seed);
  return message;
}

absl::StatusOr<engine::StreamRecord> FromProto(const v1::StreamInfo& message) {
  engine::StreamRecord record;
  auto settings = RecordSettings(message.settings());
  if (!settings.ok()) return settings.status();
  record.settings = *std::move(settings);
  record.sampling = FromProto(message.sampling()).Over({});
  record.stream_id = message.stream_id();
  record.stream_uid = message.stream_uid();
  record.tenant = message.tenant();
  record.labels.insert(message.labels().begin(), message.labels().end());
  record.model_fingerprint = message.model_fingerprint();
  record.committed_position = message.committed_position();
  record.owner = message.owner();
  record.owner_epoch = message.owner_epoch();
  record.lease_remaining_ms = message.lease_remaining_ms();
  for (const v1::SnapshotInfo& one : message.snapshots()) {
    record.snapshots.push_back(FromProto(one));
  }
  record.parent = message.parent();
  record.forked_at = message.forked_at();
  record.created_unix_ms = message.created_unix_ms();
  record.last_used_unix_ms = message.last_used_unix_ms();
  record.ttl_ms = message.ttl_ms();
  record.partition = message.partition();
  record.state_bytes = message.state_bytes();
  record.instruction_class = message.instruction_class();
  return record;
}

v1::StreamInfo ToProto(const engine::StreamRecord& record) {
  v1::StreamInfo message;
  message.set_stream_id(record.stream_id);
  message.set_stream_uid(record.stream_uid);
  message.set_tenant(record.tenant);
  message.mutable_labels()->insert(record.labels.begin(), record.labels.end());
  message.set_model_fingerprint(record.model_fingerprint);
  *message.mutable_settings() = ToProto(record.settings);
  *message.mutable_sampling() = ToProto(record.sampling);
  message.set_committed_position(record.committed_position);
  message.set_owner(record.owner);
  message.set_owner_epoch(record.owner_epoch);
  message.set_lease_remaining_ms(record.lease_remaining_ms);
  for (const engine::SnapshotRecord& one : record.snapshots) {
    *message.add_snapshots() = ToProto(one);
  }
  message.set_parent(record.parent);
  message.set_forked_at(record.forked_at);
  message.set_created_unix_ms(record.created_unix_ms);
  message.set_last_used_unix_ms(record.last_used_unix_ms);
  message.set_ttl_ms(record.ttl_ms);
  message.set_partition(record.partition);
  message.set_state_bytes(record.state_bytes);
  message.set_instruction_class(record.instruction_class);
  return message;
}

engine::SnapshotRecord FromProto(const v1::SnapshotInfo& message) {
  return {message.blob_id(),
          message.position(),
          message.digest(),
          message.size_bytes(),
          message.name(),
          message.created_unix_ms(),
          message.state_position(),
          {message.instruction_classes().begin(), message.instruction_classes().end()}};
}

v1::SnapshotInfo ToProto(const engine::SnapshotRecord& snapshot) {
  v1::SnapshotInfo message;
  message.set_blob_id(snapshot.blob_id);
  message.set_position(snapshot.position);
  message.set_digest(snapshot.digest);
  message.set_size_bytes(snapshot.size_bytes);
  message.set_name(snapshot.name);
  message.set_created_unix_ms(snapshot.created_unix_ms);
  message.set_state_position(snapshot.state_position);
  message.mutable_instruction_classes()->Add(snapshot.computed_by.begin(),
                                             snapshot.computed_by.end());
  return message;
}

engine::TokenRun FromProto(const v1::TokenRun& message) {
  engine::TokenRun run;
  run.position = message.position();
  run.author = message.author() == v1::TOKEN_AUTHOR_MODEL ? engine::TokenAuthor::kModel
                                                          : engine::TokenAuthor::kClient;
  run.ids.assign(message.ids().begin(), message.ids().end());
  return run;
}

v1::TokenRun ToProto(const engine::TokenRun& run) {
  v1::TokenRun message;
  message.set_position(run.position);
  message.set_author(run.author == engine::TokenAuthor::kModel ? v1::TOKEN_AUTHOR_MODEL
                                                               : v1::TOKEN_AUTHOR_CLIENT);
  message.mutable_ids()->Add(run.ids.begin(), run.ids.end());
  return message;
}

namespace {

v1::RestoreReport::Continuation ToProto(engine::Continuation continuation) {
  switch (continuation) {
    case engine::Continuation::kExact:
      return v1::RestoreReport::CONTINUATION_EXACT;
    case engine::Continuation::kTolerance:
      return v1::RestoreReport::CONTINUATION_TOLERANCE;
    case engine::Continuation::kUnknown:
      break;
  }
  return v1::RestoreReport::CONTINUATION_UNSPECIFIED;
}

// "cpu", "cuda", or "mixed" when layers of a pipeline are on both.
std::string_view BackendOf(std::string_view instruction_class) {
  // A pipeline of several classes names each with its layers: "0-15:avx2,16-31:cuda-sm90".
  size_t cuda = 0, parts = 0;
  for (size_t at = 0; at <= instruction_class.size(); ++parts) {
    const size_t end = std::min(instruction_class.find(',', at), instruction_class.size());
    const std::string_view part = instruction_class.substr(at, end - at);
    if (part.find("cuda") != std::string_view::npos) ++cuda;
    at = end + 1;
  }
  return cuda == 0 ? "cpu" : cuda == parts ? "cuda" : "mixed";
}

}  // namespace

v1::RestoreReport ToProto(const engine::RestoreReport& report, const std::string& worker) {
  v1::RestoreReport message;
  message.set_kind(std::string(engine::RestoreKindName(report.kind)));
  message.set_reused_tokens(report.reused_tokens);
  message.set_replayed_tokens(report.replayed_tokens);
  message.set_skipped_snapshots(report.skipped_snapshots);
  message.set_seconds(report.seconds);
  message.set_continuation(ToProto(report.continuation));
  message.set_instruction_class(report.instruction_class);
  message.mutable_computed_by()->Add(report.computed_by.begin(), report.computed_by.end());
  message.set_worker(worker);
  return message;
}

absl::StatusOr<engine::AttachRequest> FromProto(const v1::AttachStream& message,
                                                const memory::LolaSettings& defaults) {
  const v1::OpenStream& open = message.open();
  engine::AttachRequest request;
  if (open.stream_id().empty() || open.stream_id().size() > rpc::kStreamIdBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("open.stream_id: ", open.stream_id().size(),
                                                   " bytes, must be 1 to ",
                                                   rpc::kStreamIdBytesMax));
  }
  auto settings = RequestedSettings(open.settings(), defaults);
  if (!settings.ok()) return settings.status();
  request.stream_id = open.stream_id();
  request.create_if_missing = open.create_if_missing();
  request.takeover = message.takeover();
  request.tenant = open.tenant();
  request.labels.insert(open.labels().begin(), open.labels().end());
  request.settings = *std::move(settings);
  request.sampling = FromProto(open.sampling());
  request.durability = open.durability() == v1::DURABILITY_NONE ? engine::Durability::kNone
                                                                : engine::Durability::kLocal;
  if (open.has_after_position()) request.after_position = open.after_position();
  request.resume = open.resume();
  request.model_fingerprint = open.model_fingerprint();
  request.ttl_ms = open.ttl_ms();
  return request;
}

namespace {

// Tokens of a text by where it stands: at the beginning of the stream it gets what the model
// expects in front of a sequence, later it goes on where the text before it ended.
absl::Status EncodeAppend(const std::string& text, const engine::Tokenizer& tokenizer,
                          engine::AppendOp* op) {
  const auto encode = [&](bool starts) {
    auto ids = tokenizer.Encode(text, {starts, {}});
    if (starts && ids.ok()) {
      ids->insert(ids->begin(), tokenizer.prefix().begin(), tokenizer.prefix().end());
    }
    return ids;
  };
  auto ids = encode(op->base == 0u);
  if (!ids.ok()) return ids.status();
  op->ids = *std::move(ids);
  // Without a base only the scheduler knows where the stream ends.
  if (op->base || (!tokenizer.marks_start() && tokenizer.prefix().empty())) return absl::OkStatus();
  auto at_start = encode(true);
  if (!at_start.ok()) return at_start.status();
  op->ids_at_start = *std::move(at_start);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<engine::AppendOp> AppendFromProto(const v1::WorkerOp& message,
                                                 const engine::Tokenizer& tokenizer) {
  engine::AppendOp op;
  op.seq = message.seq();
  if (message.has_base()) op.base = message.base_position();
  const v1::AppendOp& append = message.append();
  if (append.content_case() == v1::AppendOp::kText) {
    if (append.text().size() > rpc::kAppendTextBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("append.text: ", append.text().size(),
                                                     " bytes, at most ", rpc::kAppendTextBytesMax));
    }
    if (absl::Status status = EncodeAppend(append.text(), tokenizer, &op); !status.ok()) {
      return status;
    }
  } else {
    op.ids.assign(append.tokens().ids().begin(), append.tokens().ids().end());
  }
  if (op.ids.size() > std::max(rpc::kAppendTokensMax, rpc::kAppendTextBytesMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("append.tokens: ", op.ids.size(), " ids, at most ", rpc::kAppendTokensMax));
  }
  return op;
}

absl::StatusOr<engine::GenerateOp> GenerateFromProto(const v1::WorkerOp& message) {
  const v1::GenerateOp& generate = message.generate();
  if (generate.max_tokens() == 0 || generate.max_tokens() > rpc::kGenerateTokensMax) {
    return absl::InvalidArgumentError(absl::StrCat("generate.max_tokens: ", generate.max_tokens(),
                                                   ", must be 1 to ", rpc::kGenerateTokensMax));
  }
  engine::GenerateOp op;
  op.seq = message.seq();
  if (message.has_base()) op.base = message.base_position();
  op.max_tokens = generate.max_tokens();
  op.stops.assign(generate.stop().begin(), generate.stop().end());
  op.sampling = FromProto(generate.sampling());
  op.logprobs = generate.logprobs();
  op.ignore_eos = generate.ignore_eos();
  op.cancelled = message.cancelled();
  return op;
}

absl::Status CheckFits(const v1::InspectMemoryReply& reply) {
  const size_t bytes = reply.ByteSizeLong();
  if (bytes <= rpc::kMessageBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("layer, head: ", reply.heads_size(), " heads make an answer of ", bytes,
                   " bytes, at most ", rpc::kMessageBytesMax, "; ask for one layer, or one head"));
}

v1::TokenOutput ToProto(engine::TokensEvent event) {
  v1::TokenOutput message;
  message.set_position(event.position);
  message.mutable_ids()->Add(event.ids.begin(), event.ids.end());
  message.set_text(std::move(event.text));
  message.mutable_logprobs()->Add(event.logprobs.begin(), event.logprobs.end());
  message.set_author(event.author == engine::TokenAuthor::kModel ? v1::TOKEN_AUTHOR_MODEL
                                                                 : v1::TOKEN_AUTHOR_CLIENT);
  message.set_replayed(event.replayed);
  return message;
}

v1::OpDone ToProto(const engine::DoneEvent& event) {
  v1::OpDone message;
  const auto reason = [&event] {
    if (event.append) return v1::FINISH_REASON_APPENDED;
    switch (event.reason) {
      case engine::FinishReason::kLength:
        return v1::FINISH_REASON_LENGTH;
      case engine::FinishReason::kStop:
        return v1::FINISH_REASON_STOP;
      case engine::FinishReason::kEos:
        return v1::FINISH_REASON_EOS;
      case engine::FinishReason::kCancelled:
        return v1::FINISH_REASON_CANCELLED;
      case engine::FinishReason::kNone:
        break;
    }
    return v1::FINISH_REASON_UNSPECIFIED;
  };
  message.set_finish_reason(reason());
  message.set_position(event.position);
  message.mutable_usage()->set_appended_tokens(event.appended_tokens);
  message.mutable_usage()->set_generated_tokens(event.generated_tokens);
  message.mutable_usage()->set_state_bytes(event.state_bytes);
  return message;
}

v1::ModelInfo DescribeModel(const engine::Model& model, const std::string& name,
                            const std::string& instruction_class) {
  const memory::ModelGeometry& geometry = model.geometry();
  v1::ModelInfo info;
  info.set_name(name);
  info.set_fingerprint(model.fingerprint());
  info.set_layers(geometry.layers);
  info.set_hidden(geometry.hidden);
  info.set_query_heads(geometry.query_heads);
  info.set_kv_heads(geometry.kv_heads);
  info.set_head_dim(geometry.head_dim);
  info.set_feature_dim(geometry.feature_dim);
  info.set_ffn(geometry.ffn);
  info.set_vocab(geometry.vocab);
  info.set_parameters(engine::SizeOfWeights(model.config(), model.dtype()).parameters);
  info.set_weight_dtype(kernels::DtypeName(model.dtype()));
  *info.mutable_defaults() = ToProto(model.default_settings());
  info.set_state_bytes(memory::StateLayout(geometry, model.default_settings()).stride_bytes());
  info.set_backend(std::string(BackendOf(instruction_class)));
  info.set_instruction_class(instruction_class);
  return info;
}

}  // namespace lola::worker
