#include "memory/stream/stream_state.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "memory/hash_stream.h"
#include "memory/stream/layer_views.h"

namespace lola::memory {
namespace {

std::string HexOf(std::span<const std::byte> bytes) { return ToHex(bytes); }

template <typename A, typename B>
absl::Status Mismatch(absl::string_view field, const A& found, const B& expected) {
  return absl::DataLossError(
      absl::StrCat("state record: ", field, " is ", found, ", expected ", expected));
}

}  // namespace

std::string ToHex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::byte byte : bytes) {
    text.push_back(kDigits[std::to_integer<unsigned>(byte) >> 4]);
    text.push_back(kDigits[std::to_integer<unsigned>(byte) & 15]);
  }
  return text;
}

StreamState::StreamState(const StateLayout* layout, std::span<std::byte> record)
    : layout_(layout), record_(record) {
  LOLA_CHECK_EQ(record.size(), layout->stride_bytes());
}

const RecordHeader& StreamState::header() const {
  return *reinterpret_cast<const RecordHeader*>(record_.data());
}

RecordHeader& StreamState::mutable_header() {
  return *reinterpret_cast<RecordHeader*>(record_.data());
}

RecordHeader EmptyHeader(const StateLayout& layout,
                         const std::array<std::byte, 16>& model_fingerprint) {
  return {.magic = kRecordMagic,
          .layout_version = layout.layout_version(),
          .layers = layout.geometry().layers,
          .record_bytes = layout.stride_bytes(),
          .position = 0,
          .model_fingerprint = model_fingerprint,
          .settings_fingerprint = layout.settings().Fingerprint()};
}

void StreamState::Reset(const std::array<std::byte, 16>& model_fingerprint) {
  std::memset(record_.data() + kPageBytes, 0, record_.size() - kPageBytes);
  WriteHeader(model_fingerprint, 0);
}

void StreamState::WriteHeader(const std::array<std::byte, 16>& model_fingerprint,
                              uint64_t position) {
  std::memset(record_.data(), 0, kPageBytes);
  mutable_header() = EmptyHeader(*layout_, model_fingerprint);
  mutable_header().position = position;
}

absl::Status StreamState::Check(std::span<const std::byte> model_fingerprint) const {
  const RecordHeader& h = header();
  if (h.magic != kRecordMagic) {
    return Mismatch("magic", HexOf(std::as_bytes(std::span(h.magic))),
                    HexOf(std::as_bytes(std::span(kRecordMagic))));
  }
  if (h.layout_version != layout_->layout_version()) {
    return Mismatch("layout_version", h.layout_version, layout_->layout_version());
  }
  if (h.layers != layout_->geometry().layers) {
    return Mismatch("layers", h.layers, layout_->geometry().layers);
  }
  if (h.record_bytes != layout_->stride_bytes()) {
    return Mismatch("record_bytes", h.record_bytes, layout_->stride_bytes());
  }
  const auto settings = layout_->settings().Fingerprint();
  if (h.settings_fingerprint != settings) {
    return absl::FailedPreconditionError(
        absl::StrCat("state record: settings_fingerprint is ", HexOf(h.settings_fingerprint),
                     ", this stream's settings have ", HexOf(settings)));
  }
  if (!model_fingerprint.empty() && !std::ranges::equal(model_fingerprint, h.model_fingerprint)) {
    return absl::FailedPreconditionError(
        absl::StrCat("state record: model_fingerprint is ", HexOf(h.model_fingerprint),
                     ", this model has ", HexOf(model_fingerprint)));
  }
  return CheckMemory();
}

// Counters follow from the position; slots hold pairs that were evicted before it.
absl::Status StreamState::CheckMemory() const {
  const LolaSettings& settings = layout_->settings();
  const uint64_t position = header().position;
  if (settings.mode == Mode::kSoftmax) {
    if (position <= settings.window) return absl::OkStatus();
    return Mismatch("position", position, absl::StrCat("at most window ", settings.window));
  }
  const uint64_t chunks = position / settings.chunk;
  const uint64_t back = settings.window / settings.chunk;
  const uint64_t events = chunks > back ? chunks - back : 0;
  const uint64_t evicted = events * settings.chunk;
  for (uint32_t layer = 0; layer < layout_->geometry().layers; ++layer) {
    const uint64_t lambda = settings.CachePairs(layer);
    const uint64_t most = std::min(evicted, lambda);
    const uint64_t least = evicted > lambda ? settings.CachePairsMin(layer) : evicted;
    for (uint32_t q = 0; q < layout_->geometry().query_heads; ++q) {
      const HeadMemory head = HeadOf(*layout_, record_.data(), layer, q);
      const uint32_t owner = q / layout_->cache_heads() * layout_->cache_heads();
      const HeadMemory first = HeadOf(*layout_, record_.data(), layer, owner);
      const std::string at = absl::StrCat("layer ", layer, " head ", q, " ");
      if (head.counters->events != events) {
        return Mismatch(at + "events", head.counters->events, events);
      }
      const uint64_t cached = head.counters->cached;
      if (cached < least || cached > most) {
        return Mismatch(at + "cached", cached,
                        least == most ? absl::StrCat(most) : absl::StrCat(least, " to ", most));
      }
      if (cached != first.counters->cached) {  // one cache, one size
        return Mismatch(at + "cached", cached, first.counters->cached);
      }
      if (head.counters->absorbed != evicted - cached) {
        return Mismatch(at + "absorbed", head.counters->absorbed, evicted - cached);
      }
      for (uint32_t slot = 0; slot < cached; ++slot) {
        const int64_t pair = head.meta[slot].position;
        if (pair < 0 || static_cast<uint64_t>(pair) >= evicted) {
          return Mismatch(absl::StrCat(at, "slot ", slot, " position"), pair,
                          absl::StrCat("below ", evicted));
        }
      }
    }
  }
  return absl::OkStatus();
}

void StreamState::SetPosition(uint64_t position) { mutable_header().position = position; }

absl::Status StreamState::CheckRoom(uint64_t rows) const {
  const LolaSettings& settings = layout_->settings();
  if (settings.mode != Mode::kSoftmax || position() + rows <= settings.window) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat("softmax mode holds window ", settings.window,
                                                   " tokens; position ", position(), " + ", rows,
                                                   " more do not fit"));
}

Digest128 StreamState::Digest() const { return HashStream::Of(record_); }

HeadView StreamState::InspectHead(uint32_t layer, uint32_t query_head) const {
  LOLA_CHECK_LT(layer, layout_->geometry().layers);
  LOLA_CHECK_LT(query_head, layout_->geometry().query_heads);
  HeadView view;
  if (layout_->settings().mode == Mode::kSoftmax) return view;
  const HeadMemory head = HeadOf(*layout_, record_.data(), layer, query_head);
  view.absorbed = head.counters->absorbed;
  view.events = head.counters->events;
  for (uint32_t slot = 0; slot < head.counters->cached; ++slot) {
    const SlotMeta& meta = head.meta[slot];
    view.pairs.push_back(
        {slot, static_cast<uint64_t>(meta.position), meta.score, meta.recall_error});
  }
  std::ranges::sort(view.pairs, {}, &CachedPairView::position);
  return view;
}

}  // namespace lola::memory
