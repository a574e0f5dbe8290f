// Where stage messages meet the engine's values, and how payloads larger than a message travel.
// Pure functions, any thread. Private to services/worker.
#ifndef LOLA_SERVICES_WORKER_STAGE_MESSAGES_H_
#define LOLA_SERVICES_WORKER_STAGE_MESSAGES_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "lola/v1/stage.pb.h"
#include "services/engine/pipeline/stage_link.h"

namespace lola::worker {

// What this code understands of the protocol (StageInfo.revision), and needs from a stage.
inline constexpr uint32_t kStageRevision = 2;
// Bytes of a payload in one message; what is more goes on in the next ones.
inline constexpr size_t kStagePieceBytes = size_t{1} << 20;
// Copies under way in one session.
inline constexpr size_t kStageCopiesMax = 64;

v1::StageTerms ToProto(const engine::StageTerms& terms);
// INVALID_ARGUMENT when the layers are no range, or the name is too long.
absl::StatusOr<engine::StageTerms> FromProto(const v1::StageTerms& message);
v1::StageStepped ToProto(const engine::StageOutcome& outcome);
engine::StageOutcome FromProto(const v1::StageStepped& message);
v1::StageSegment ToProto(const engine::StageSegment& segment);
absl::Status StatusOf(int code, const std::string& message);
v1::StageDone ToDone(const absl::Status& status);
absl::Status FromDone(const v1::StageDone& message);

inline std::span<const std::byte> BytesOf(std::span<const float> values) {
  return std::as_bytes(values);
}
// Writes `first` with its payload and as many messages behind it as that takes. False as soon as
// `write(message)` is.
template <typename Message, typename Write>
bool WriteWithPayload(Message& first, std::span<const std::byte> payload, const Write& write) {
  const auto fill = [&payload](Message& message) {
    const auto piece = payload.first(std::min(payload.size(), kStagePieceBytes));
    payload = payload.subspan(piece.size());
    message.set_payload(piece.data(), piece.size());
  };
  first.set_payload_bytes(payload.size());
  fill(first);
  if (!write(first)) return false;
  Message more;
  while (!payload.empty()) {
    fill(more);
    if (!write(more)) return false;
  }
  return true;
}

// Fills `to` from `message` and as many messages behind it as its payload takes; `read(&message)`
// gets the next one. `is_more(message)`: it carries nothing but payload. INVALID_ARGUMENT when the
// payload has another size, CANCELLED when there are no more messages.
template <typename Message, typename Read, typename IsMore>
absl::Status ReadPayload(Message& message, std::span<std::byte> to, const Read& read,
                         const IsMore& is_more) {
  if (message.payload_bytes() != to.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("payload_bytes: ", message.payload_bytes(), ", must be ", to.size()));
  }
  size_t at = 0;
  while (true) {
    const std::string& piece = message.payload();
    if (piece.size() > to.size() - at || (piece.empty() && at < to.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("payload: ", piece.size(), " bytes after ", at, " of ", to.size()));
    }
    // A step that wants no logits has no payload, and perhaps no memory for one.
    if (!piece.empty()) std::memcpy(to.data() + at, piece.data(), piece.size());
    at += piece.size();
    if (at == to.size()) return absl::OkStatus();
    if (!read(&message)) return absl::CancelledError("payload: the call ended within it");
    if (!is_more(message)) {
      return absl::InvalidArgumentError(
          absl::StrCat("payload: ended after ", at, " of ", to.size(), " bytes"));
    }
  }
}

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_STAGE_MESSAGES_H_
