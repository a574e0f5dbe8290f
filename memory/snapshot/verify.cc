#include "memory/snapshot/verify.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "memory/hash_stream.h"

namespace lola::memory {

struct BlobVerifier::State {
  absl::Status TakePreface(std::span<const std::byte>& bytes);
  absl::Status TakeRecord(std::span<const std::byte> bytes);
  absl::Status EndSection();

  HashStream hash;  // of the section so far
  uint64_t fed = 0;
  std::vector<std::byte> head;  // preface bytes gathered so far
  size_t head_size = 0;         // of the whole preface; 0 = not known yet
  std::optional<Preface> preface;
  size_t section = 0;  // being hashed
  uint64_t section_left = 0;
  absl::Status failed;
};

BlobVerifier::BlobVerifier() : state_(std::make_unique<State>()) {}
BlobVerifier::~BlobVerifier() = default;

// Gathers the preface and decodes it when whole; takes its bytes off the front of `bytes`.
absl::Status BlobVerifier::State::TakePreface(std::span<const std::byte>& bytes) {
  const auto gather = [&](size_t size) {
    const size_t count = std::min(size - std::min(size, head.size()), bytes.size());
    head.insert(head.end(), bytes.begin(), bytes.begin() + count);
    bytes = bytes.subspan(count);
    return head.size() >= size;
  };
  if (head_size == 0) {
    if (!gather(kPrefaceFixedBytes)) return absl::OkStatus();
    const absl::StatusOr<size_t> size = PrefaceSize(head);
    if (!size.ok()) return size.status();
    head_size = *size;
  }
  if (!gather(head_size)) return absl::OkStatus();
  absl::StatusOr<Preface> decoded = DecodePreface(head);
  if (!decoded.ok()) return decoded.status();
  preface = *std::move(decoded);
  section_left = preface->sections[0].size;
  hash.Reset();
  return absl::OkStatus();
}

absl::Status BlobVerifier::State::EndSection() {
  const Hash128 actual = hash.Digest();
  const PrefaceSection& now = preface->sections[section];
  if (actual != now.hash) {
    return absl::DataLossError(absl::StrCat("snapshot section ", now.name, " (", now.size,
                                            " bytes): checksum stored ", HashHex(now.hash),
                                            ", computed ", HashHex(actual)));
  }
  if (++section < preface->sections.size()) {
    section_left = preface->sections[section].size;
    hash.Reset();
  }
  return absl::OkStatus();
}

absl::Status BlobVerifier::State::TakeRecord(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (section == preface->sections.size()) {
      return absl::DataLossError(absl::StrCat("snapshot: ", bytes.size(),
                                              " bytes after its end at ",
                                              head_size + preface->record_bytes));
    }
    const size_t count = std::min<uint64_t>(section_left, bytes.size());
    hash.Update(bytes.first(count));
    section_left -= count;
    bytes = bytes.subspan(count);
    if (section_left == 0) {
      const absl::Status ended = EndSection();
      if (!ended.ok()) return ended;
    }
  }
  return absl::OkStatus();
}

absl::Status BlobVerifier::Feed(std::span<const std::byte> bytes) {
  State& state = *state_;
  if (!state.failed.ok()) return state.failed;
  state.fed += bytes.size();
  if (!state.preface) state.failed = state.TakePreface(bytes);
  if (state.failed.ok() && state.preface) state.failed = state.TakeRecord(bytes);
  return state.failed;
}

absl::Status BlobVerifier::Finish() const {
  const State& state = *state_;
  if (!state.failed.ok()) return state.failed;
  if (!state.preface) {
    return absl::DataLossError(
        absl::StrCat("snapshot: ends inside its preface after ", state.fed, " bytes"));
  }
  const uint64_t size = state.head_size + state.preface->record_bytes;
  if (state.fed != size) {
    return absl::DataLossError(absl::StrCat("snapshot: has ", state.fed, " of ", size, " bytes"));
  }
  return absl::OkStatus();
}

const Preface* BlobVerifier::preface() const {
  return state_->preface ? &*state_->preface : nullptr;
}

uint64_t BlobVerifier::bytes_fed() const { return state_->fed; }

uint64_t BlobVerifier::record_bytes_fed() const {
  return state_->preface ? state_->fed - state_->head_size : 0;
}

absl::StatusOr<Preface> VerifyBlob(std::span<const std::byte> blob) {
  BlobVerifier verifier;
  absl::Status status = verifier.Feed(blob);
  if (status.ok()) status = verifier.Finish();
  if (!status.ok()) return status;
  return *verifier.preface();
}

}  // namespace lola::memory
