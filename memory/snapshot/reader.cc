#include "memory/snapshot/reader.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "memory/hash_stream.h"
#include "memory/snapshot/identity.h"
#include "memory/snapshot/verify.h"
#include "memory/stream/stream_state.h"

namespace lola::memory {

struct SnapshotReader::State {
  absl::Status CheckPreface(const Preface& preface) const;
  absl::StatusOr<uint64_t> CheckRecord(const Preface& preface);

  SnapshotIdentity expected;
  const StateLayout& layout;
  std::span<std::byte> record;
  std::optional<uint64_t> position;
  BlobVerifier verifier;
  bool checked = false;  // the preface was compared
  size_t written = 0;    // record bytes
  HashStream digest;     // of them as they lie in the record
  absl::Status failed;
};

SnapshotReader::SnapshotReader(const SnapshotIdentity& expected, const StateLayout& layout,
                               std::span<std::byte> record, std::optional<uint64_t> position)
    : state_(new State{expected, layout, record, position, {}, false, 0, {}, {}}) {
  LOLA_CHECK_EQ(record.size(), layout.stride_bytes());
}
SnapshotReader::~SnapshotReader() = default;

absl::Status SnapshotReader::State::CheckPreface(const Preface& preface) const {
  if (HashHex(preface.model) != expected.model_fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat("snapshot model fingerprint: blob has ",
                                                      HashHex(preface.model), ", expected ",
                                                      expected.model_fingerprint));
  }
  absl::Status equal =
      CompareFields("geometry", preface.geometry, GeometryFields(expected.geometry));
  if (equal.ok()) {
    equal = CompareFields("settings", preface.settings, SettingsFields(expected.settings));
  }
  if (!equal.ok()) return equal;
  if (position && *position != preface.position) {
    return absl::FailedPreconditionError(
        absl::StrCat("snapshot position: blob has ", preface.position, ", expected ", *position));
  }
  if (preface.record_bytes != record.size()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "snapshot record size: blob has ", preface.record_bytes, ", expected ", record.size()));
  }
  return absl::OkStatus();
}

absl::Status SnapshotReader::Feed(std::span<const std::byte> bytes) {
  State& s = *state_;
  if (!s.failed.ok()) return s.failed;
  s.failed = s.verifier.Feed(bytes);
  const Preface* preface = s.verifier.preface();
  if (preface != nullptr && !s.checked) {
    // What the blob belongs to says more than a damaged byte behind it.
    const absl::Status fits = s.CheckPreface(*preface);
    if (!fits.ok()) s.failed = fits;
    s.checked = true;
  }
  if (!s.failed.ok() || preface == nullptr) return s.failed;
  // Everything beyond the preface belongs to the record; the verifier refused surplus bytes.
  const size_t fresh = std::min<uint64_t>(bytes.size(), s.verifier.record_bytes_fed() - s.written);
  std::memcpy(s.record.data() + s.written, bytes.data() + bytes.size() - fresh, fresh);
  s.digest.Update(s.record.subspan(s.written, fresh));  // while it is in the cache
  s.written += fresh;
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SnapshotReader::State::CheckRecord(const Preface& preface) {
  const StreamState state(&layout, record);
  const absl::Status fits = state.Check(preface.model);
  if (!fits.ok()) return fits;
  if (state.position() != preface.position) {
    return absl::DataLossError(absl::StrCat("snapshot position: preface has ", preface.position,
                                            ", record has ", state.position()));
  }
  const Digest128 digest = this->digest.Digest();
  if (digest != preface.digest) {
    return absl::DataLossError(absl::StrCat("snapshot digest: preface has ",
                                            HashHex(preface.digest), ", record has ",
                                            HashHex(digest)));
  }
  return preface.position;
}

absl::StatusOr<uint64_t> SnapshotReader::Finish() {
  State& s = *state_;
  if (s.failed.ok()) s.failed = s.verifier.Finish();
  if (!s.failed.ok()) return s.failed;
  absl::StatusOr<uint64_t> position = s.CheckRecord(*s.verifier.preface());
  if (!position.ok()) s.failed = position.status();
  return position;
}

absl::StatusOr<uint64_t> ReadSnapshot(std::span<const std::byte> blob,
                                      const SnapshotIdentity& expected, const StateLayout& layout,
                                      std::span<std::byte> record,
                                      std::optional<uint64_t> position) {
  SnapshotReader reader(expected, layout, record, position);
  const absl::Status fed = reader.Feed(blob);
  if (!fed.ok()) return fed;
  return reader.Finish();
}

}  // namespace lola::memory
