// The one place where worker and shard messages meet the engine's plain values. Pure functions, any
// thread. Errors: INVALID_ARGUMENT naming the field and its value.
#ifndef LOLA_SERVICES_WORKER_CONVERT_H_
#define LOLA_SERVICES_WORKER_CONVERT_H_

#include <optional>

#include "absl/status/statusor.h"
#include "lola/v1/worker.pb.h"
#include "memory/stream/settings.h"
#include "services/engine/model.h"
#include "services/engine/runtime/events.h"
#include "services/engine/tokenizer.h"

namespace lola::worker {

// What a client asks for, on top of the model's defaults: a named profile first, then field by
// field. Nothing when the message is empty.
absl::StatusOr<std::optional<memory::LolaSettings>> RequestedSettings(
    const v1::LolaSettings& message, const memory::LolaSettings& defaults);
// A record's settings: every value is in the message.
absl::StatusOr<memory::LolaSettings> RecordSettings(const v1::LolaSettings& message);
v1::LolaSettings ToProto(const memory::LolaSettings& settings);

engine::SamplingOverrides FromProto(const v1::SamplingParams& message);
v1::SamplingParams ToProto(const engine::SamplingParams& sampling);

absl::StatusOr<engine::StreamRecord> FromProto(const v1::StreamInfo& message);
v1::StreamInfo ToProto(const engine::StreamRecord& record);
engine::SnapshotRecord FromProto(const v1::SnapshotInfo& message);
v1::SnapshotInfo ToProto(const engine::SnapshotRecord& snapshot);
engine::TokenRun FromProto(const v1::TokenRun& message);
v1::TokenRun ToProto(const engine::TokenRun& run);
v1::RestoreReport ToProto(const engine::RestoreReport& report, const std::string& worker);

absl::StatusOr<engine::AttachRequest> FromProto(const v1::AttachStream& message,
                                                const memory::LolaSettings& defaults);
absl::StatusOr<engine::AppendOp> AppendFromProto(const v1::WorkerOp& message,
                                                 const engine::Tokenizer& tokenizer);
absl::StatusOr<engine::GenerateOp> GenerateFromProto(const v1::WorkerOp& message);

// INVALID_ARGUMENT that says what to ask for instead, when the answer is larger than a message.
absl::Status CheckFits(const v1::InspectMemoryReply& reply);
v1::TokenOutput ToProto(engine::TokensEvent event);
v1::OpDone ToProto(const engine::DoneEvent& event);
// `instruction_class`: the runner's.
v1::ModelInfo DescribeModel(const engine::Model& model, const std::string& name,
                            const std::string& instruction_class);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_CONVERT_H_
