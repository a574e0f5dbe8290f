#include "memory/snapshot/writer.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "memory/hash_stream.h"
#include "memory/snapshot/identity.h"
#include "memory/stream/stream_state.h"

namespace lola::memory {
namespace {

constexpr size_t kHashBlockBytes = 256 << 10;  // stays in the second-level cache

// One section for the header page and one for each layer: a layer range is a run of sections.
// Hashes them and the whole record in one pass over memory.
void MakeSections(const StateLayout& layout, std::span<const std::byte> record, Preface* preface) {
  HashStream whole, part;
  const auto add = [&](std::string name, size_t begin, size_t end) {
    part.Reset();
    for (size_t at = begin; at < end; at += kHashBlockBytes) {
      const auto block = record.subspan(at, std::min(kHashBlockBytes, end - at));
      part.Update(block);
      whole.Update(block);
    }
    preface->sections.push_back({std::move(name), begin, end - begin, part.Digest()});
  };
  add("header", 0, layout.layer(0).begin);
  for (uint32_t i = 0; i < layout.geometry().layers; ++i) {
    const bool last = i + 1 == layout.geometry().layers;
    add(absl::StrCat("layer ", i), layout.layer(i).begin,
        last ? record.size() : layout.layer(i + 1).begin);
  }
  preface->digest = whole.Digest();
}

}  // namespace

absl::StatusOr<SnapshotWriter> SnapshotWriter::Create(const SnapshotIdentity& identity,
                                                      const StateLayout& layout,
                                                      std::span<const std::byte> record) {
  if (record.size() != layout.stride_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("record: ", record.size(), " bytes, layout has ", layout.stride_bytes()));
  }
  if (!(layout.geometry() == identity.geometry && layout.settings() == identity.settings)) {
    return absl::InvalidArgumentError("layout: made for another geometry or other settings");
  }
  const absl::StatusOr<Hash128> model =
      HashFromHex(identity.model_fingerprint, "model fingerprint");
  if (!model.ok()) return model.status();
  // The view only reads here.
  const StreamState state(&layout, {const_cast<std::byte*>(record.data()), record.size()});
  const absl::Status fits = state.Check(*model);
  if (!fits.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("record: ", fits.message()));
  }
  SnapshotWriter writer;
  Preface& preface = writer.preface_;
  preface.version = identity.settings.Extended() ? kSnapshotVersion : kSnapshotVersionMin;
  preface.position = state.position();
  preface.record_bytes = record.size();
  preface.model = *model;
  preface.geometry = GeometryFields(identity.geometry);
  preface.settings = SettingsFields(identity.settings);
  MakeSections(layout, record, &preface);
  writer.preface_bytes_ = EncodePreface(preface);
  writer.record_ = record;
  return writer;
}

std::span<const std::byte> SnapshotWriter::Piece(uint64_t offset, size_t max_bytes) const {
  std::span<const std::byte> part = std::as_bytes(std::span(preface_bytes_));
  if (offset >= part.size()) {
    offset -= part.size();
    part = record_;
  }
  if (offset >= part.size()) return {};
  return part.subspan(offset, std::min<uint64_t>(max_bytes, part.size() - offset));
}

std::vector<std::byte> SnapshotWriter::ToBytes() const {
  std::vector<std::byte> bytes(size_bytes());
  std::memcpy(bytes.data(), preface_bytes_.data(), preface_bytes_.size());
  std::memcpy(bytes.data() + preface_bytes_.size(), record_.data(), record_.size());
  return bytes;
}

}  // namespace lola::memory
