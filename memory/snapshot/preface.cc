#include "memory/snapshot/preface.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "memory/hash_stream.h"
#include "memory/text.h"

namespace lola::memory {
namespace {

static_assert(std::endian::native == std::endian::little, "blobs are little-endian");

constexpr std::string_view kMagic = "LOLASNAP";
constexpr size_t kPageBytes = 4096;
constexpr size_t kFieldsMax = 4096;

template <typename T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutName(std::string& out, const std::string& name) {
  Put<uint8_t>(out, static_cast<uint8_t>(name.size()));
  out.append(name);
}

void PutHash(std::string& out, const Hash128& hash) {
  out.append(reinterpret_cast<const char*>(hash.data()), hash.size());
}

void PutFields(std::string& out, const std::vector<PrefaceField>& fields) {
  Put<uint32_t>(out, static_cast<uint32_t>(fields.size()));
  for (const PrefaceField& field : fields) {
    PutName(out, field.name);
    Put<uint64_t>(out, field.value);
  }
}

// Bounded reads; after the first one beyond the end everything reads as zero and ok() is false.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : rest_(bytes) {}
  bool ok() const { return ok_; }
  size_t left() const { return rest_.size(); }

  void Read(void* out, size_t size) {
    if (size > rest_.size()) {
      ok_ = false;
      rest_ = {};
      std::memset(out, 0, size);
      return;
    }
    std::memcpy(out, rest_.data(), size);
    rest_ = rest_.subspan(size);
  }
  template <typename T>
  T Take() {
    T value;
    Read(&value, sizeof(value));
    return value;
  }
  std::string TakeName() {
    std::string name(Take<uint8_t>(), '\0');
    Read(name.data(), name.size());
    return name;
  }
  Hash128 TakeHash() {
    Hash128 hash;
    Read(hash.data(), hash.size());
    return hash;
  }

 private:
  std::span<const std::byte> rest_;
  bool ok_ = true;
};

absl::Status Damaged(std::string_view field, std::string_view what) {
  return absl::DataLossError(absl::StrCat("snapshot preface, ", ToAbsl(field), ": ", ToAbsl(what)));
}

absl::Status ReadFields(Cursor& cursor, std::string_view what, std::vector<PrefaceField>& out) {
  const uint32_t count = cursor.Take<uint32_t>();
  if (count > kFieldsMax) return Damaged(what, absl::StrCat(count, " entries"));
  for (uint32_t i = 0; i < count && cursor.ok(); ++i) {
    PrefaceField field;
    field.name = cursor.TakeName();
    field.value = cursor.Take<uint64_t>();
    out.push_back(std::move(field));
  }
  if (!cursor.ok()) return Damaged(what, "runs past the end of the preface");
  return absl::OkStatus();
}

// Sections must follow one another and cover the record exactly.
absl::Status ReadSections(Cursor& cursor, Preface& preface) {
  const uint32_t count = cursor.Take<uint32_t>();
  if (count == 0 || count > kSectionsMax) {
    return Damaged("sections", absl::StrCat(count, " entries, must be 1 to ", kSectionsMax));
  }
  uint64_t reached = 0;
  for (uint32_t i = 0; i < count; ++i) {
    PrefaceSection section;
    section.name = cursor.TakeName();
    section.offset = cursor.Take<uint64_t>();
    section.size = cursor.Take<uint64_t>();
    section.hash = cursor.TakeHash();
    if (!cursor.ok()) return Damaged("sections", "run past the end of the preface");
    if (section.offset != reached || section.size == 0 ||
        section.size > preface.record_bytes - reached) {
      return Damaged(absl::StrCat("section ", section.name),
                     absl::StrCat("offset ", section.offset, " size ", section.size, " after byte ",
                                  reached, " of ", preface.record_bytes));
    }
    reached += section.size;
    preface.sections.push_back(std::move(section));
  }
  if (reached != preface.record_bytes) {
    return Damaged("sections",
                   absl::StrCat("cover ", reached, " of ", preface.record_bytes, " record bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

Hash128 HashOf(std::span<const std::byte> bytes) { return HashStream::Of(bytes); }

std::string HashHex(const Hash128& hash) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const std::byte byte : hash) {
    hex.push_back(kDigits[std::to_integer<int>(byte >> 4)]);
    hex.push_back(kDigits[std::to_integer<int>(byte & std::byte{15})]);
  }
  return hex;
}

absl::StatusOr<Hash128> HashFromHex(std::string_view hex, std::string_view field) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  Hash128 hash{};
  bool good = hex.size() == 2 * hash.size();
  for (size_t i = 0; good && i < hex.size(); ++i) {
    good = digit(hex[i]) >= 0;
    if (good) hash[i / 2] = hash[i / 2] << 4 | static_cast<std::byte>(digit(hex[i]));
  }
  if (!good) {
    return absl::InvalidArgumentError(
        absl::StrCat(ToAbsl(field), ": \"", ToAbsl(hex), "\" is not 32 lower-case hex digits"));
  }
  return hash;
}

std::string EncodePreface(const Preface& preface) {
  std::string body;
  Put<uint64_t>(body, preface.position);
  Put<uint64_t>(body, preface.record_bytes);
  PutHash(body, preface.model);
  PutHash(body, preface.digest);
  PutFields(body, preface.geometry);
  PutFields(body, preface.settings);
  Put<uint32_t>(body, static_cast<uint32_t>(preface.sections.size()));
  for (const PrefaceSection& section : preface.sections) {
    PutName(body, section.name);
    Put<uint64_t>(body, section.offset);
    Put<uint64_t>(body, section.size);
    PutHash(body, section.hash);
  }
  const size_t used = kPrefaceFixedBytes + body.size() + sizeof(Hash128);
  const size_t total = (used + kPageBytes - 1) / kPageBytes * kPageBytes;
  std::string out(kMagic);
  Put<uint32_t>(out, preface.version);
  Put<uint32_t>(out, static_cast<uint32_t>(total));
  Put<uint32_t>(out, static_cast<uint32_t>(body.size()));
  Put<uint32_t>(out, 0);
  out += body;
  PutHash(out, HashOf(std::as_bytes(std::span(out))));
  out.resize(total, '\0');
  return out;
}

absl::StatusOr<size_t> PrefaceSize(std::span<const std::byte> head) {
  if (head.size() < kPrefaceFixedBytes) {
    return Damaged("size", absl::StrCat(head.size(), " bytes, at least ", kPrefaceFixedBytes));
  }
  Cursor cursor(head);
  char magic[8];
  cursor.Read(magic, sizeof(magic));
  if (std::string_view(magic, sizeof(magic)) != kMagic) {
    return Damaged("magic", "not a LoLA snapshot");
  }
  const uint32_t version = cursor.Take<uint32_t>();
  if (version < kSnapshotVersionMin || version > kSnapshotVersion) {
    return absl::FailedPreconditionError(absl::StrCat("snapshot version: blob has ", version,
                                                      ", this build reads ", kSnapshotVersionMin,
                                                      " to ", kSnapshotVersion));
  }
  const uint32_t total = cursor.Take<uint32_t>();
  const uint32_t body = cursor.Take<uint32_t>();
  const uint32_t reserved = cursor.Take<uint32_t>();
  if (total == 0 || total % kPageBytes != 0 || total > kPrefaceBytesMax) {
    return Damaged("size", absl::StrCat(total, " bytes"));
  }
  if (body > total || kPrefaceFixedBytes + body + sizeof(Hash128) > total) {
    return Damaged("body size", absl::StrCat(body, " bytes in a preface of ", total));
  }
  if (reserved != 0) return Damaged("reserved", absl::StrCat(reserved, ", must be 0"));
  return total;
}

absl::StatusOr<Preface> DecodePreface(std::span<const std::byte> bytes) {
  const absl::StatusOr<size_t> total = PrefaceSize(bytes);
  if (!total.ok()) return total.status();
  if (bytes.size() < *total) {
    return Damaged("size", absl::StrCat("has ", bytes.size(), " of ", *total, " bytes"));
  }
  uint32_t body = 0;
  std::memcpy(&body, bytes.data() + 16, sizeof(body));
  const size_t hashed = kPrefaceFixedBytes + body;
  Cursor checksum(bytes.subspan(hashed, sizeof(Hash128)));
  const Hash128 expected = checksum.TakeHash();
  const Hash128 actual = HashOf(bytes.first(hashed));
  if (expected != actual) {
    return Damaged("checksum",
                   absl::StrCat("stored ", HashHex(expected), ", computed ", HashHex(actual)));
  }
  const auto padding = bytes.subspan(hashed + sizeof(Hash128), *total - hashed - sizeof(Hash128));
  if (!std::all_of(padding.begin(), padding.end(), [](std::byte b) { return b == std::byte{0}; })) {
    return Damaged("padding", "not zero");
  }
  Cursor cursor(bytes.subspan(kPrefaceFixedBytes, body));
  Preface preface;
  std::memcpy(&preface.version, bytes.data() + 8, sizeof(preface.version));
  preface.position = cursor.Take<uint64_t>();
  preface.record_bytes = cursor.Take<uint64_t>();
  preface.model = cursor.TakeHash();
  preface.digest = cursor.TakeHash();
  absl::Status read = ReadFields(cursor, "geometry", preface.geometry);
  if (read.ok()) read = ReadFields(cursor, "settings", preface.settings);
  if (read.ok()) read = ReadSections(cursor, preface);
  if (!read.ok()) return read;
  if (cursor.left() != 0) return Damaged("body size", absl::StrCat(cursor.left(), " bytes unread"));
  return preface;
}

}  // namespace lola::memory
