#include "memory/ids.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "memory/limits.h"
#include "xxhash.h"

namespace lola::memory {
namespace {

absl::Status ValidateName(const std::string& field, std::string_view name, size_t bytes_max) {
  if (name.empty()) return absl::InvalidArgumentError(field + ": is empty");
  if (name.size() > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat(field, ": ", Quoted(name), " has ", name.size(),
                                                   " bytes, at most ", bytes_max, " are allowed"));
  }
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": ", Quoted(name), " has a control character"));
    }
  }
  if (name.front() == ' ' || name.back() == ' ') {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": ", Quoted(name), " begins or ends with a space"));
  }
  return absl::OkStatus();
}

}  // namespace

PartitionId PartitionOf(std::string_view stream_id, uint32_t partitions) {
  return PartitionId(XXH64(stream_id.data(), stream_id.size(), 0) % partitions);
}

absl::Status ValidateStreamId(std::string_view field, std::string_view id) {
  return ValidateName(std::string(field), id, kStreamIdBytesMax);
}

absl::Status ValidateSnapshotName(std::string_view name) {
  return ValidateName("name", name, kSnapshotNameBytesMax);
}

std::string Quoted(std::string_view value) {
  constexpr size_t kShownBytesMax = 80;
  size_t shown = std::min(value.size(), kShownBytesMax);
  // Not in the middle of a UTF-8 character: a message with half a one cannot be sent.
  const size_t least = shown - std::min<size_t>(shown, 3);
  while (shown > least && shown < value.size() && (value[shown] & 0xc0) == 0x80) --shown;
  std::string text = "\"";
  for (const char c : value.substr(0, shown)) {
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned char>(c));
      text += escaped;
    } else {
      text += c;
    }
  }
  if (value.size() > shown) text += "...";
  text += '"';
  return text;
}

}  // namespace lola::memory
