// Operations that want the state at rest: snapshots by name, inspections.
#include <vector>

#include "absl/strings/str_cat.h"
#include "memory/stream/stream_state.h"
#include "services/engine/runtime/scheduler.h"

namespace lola::engine {

// Where the state must stand for a snapshot or an inspection. Inspect shows the whole past. A
// snapshot leaves the last token out: whoever restores it feeds that token and has logits at once.
uint64_t Scheduler::SettledPosition(const Stream& s, const Op& op) {
  return op.kind == Op::Kind::kSnapshot && s.end > 1 ? s.end - 1 : s.end;
}

// Once everything is committed and the state stands there. True when done.
bool Scheduler::StartSettled(const StreamPtr& s, Op& op) {
  if (op.kind == Op::Kind::kSnapshot && s->end == 0) {
    op.on_snapshot(absl::FailedPreconditionError("snapshot: the stream has no tokens"));
    op.stage = Op::Stage::kProduced;
    return true;
  }
  op.stage = Op::Stage::kSettling;
  const uint64_t position = SettledPosition(*s, op);
  if (s->consumed < position || s->committed < s->end) return false;
  if (s->consumed > position) {  // after an inspection
    RestoreBelowEnd(s);
    return false;
  }
  op.end = s->end;
  if (op.kind == Op::Kind::kInspect) {
    op.on_inspect(InspectNow(*s, op));
  } else if (!BeginSnapshot(s, op.snapshot_name, op.on_snapshot)) {
    return false;  // a buffer or the upload before it is awaited
  }
  op.stage = Op::Stage::kProduced;
  return true;
}

absl::StatusOr<MemoryReport> Scheduler::InspectNow(Stream& s, const Op& op) {
  const memory::ModelGeometry& geometry = s.layout->geometry();
  if (op.layer && *op.layer >= geometry.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer: ", *op.layer, ", the model has ", geometry.layers));
  }
  if (op.head && *op.head >= geometry.query_heads) {
    return absl::InvalidArgumentError(
        absl::StrCat("head: ", *op.head, ", the model has ", geometry.query_heads));
  }
  std::span<std::byte> record = Record(s);
  std::vector<std::byte> copied;
  if (record.empty()) {
    copied.resize(s.layout->stride_bytes());
    absl::StatusOr<StateCopy> copy = states_->Copy(*s.slot, copied);
    absl::Status status = copy.ok() ? (*copy)() : copy.status();
    if (!status.ok()) return status;
    record = copied;
  }
  const memory::StreamState state(&*s.layout, record);
  MemoryReport report;
  report.position = state.position();
  report.state_bytes = s.layout->stride_bytes();
  report.state_digest = memory::ToHex(state.Digest());
  report.computed_by = s.computed_by;
  if (s.record.settings.mode != memory::Mode::kLola) return report;
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    if (op.layer && *op.layer != layer) continue;
    for (uint32_t head = 0; head < geometry.query_heads; ++head) {
      if (op.head && *op.head != head) continue;
      const memory::HeadView view = state.InspectHead(layer, head);
      HeadReport one{layer, head, view.absorbed, {}};
      for (const memory::CachedPairView& pair : view.pairs) {
        one.pairs.push_back({pair.position, pair.score, pair.recall_error});
      }
      report.heads.push_back(std::move(one));
    }
  }
  return report;
}

}  // namespace lola::engine
