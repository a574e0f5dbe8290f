#include "services/rpc/wire_text.h"

#include <google/protobuf/descriptor.h>

#include <cstdint>

namespace lola::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

constexpr int kDepthMax = 32;

bool ReadVarint(std::string_view* bytes, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 64 && !bytes->empty(); shift += 7) {
    const uint8_t byte = static_cast<uint8_t>(bytes->front());
    bytes->remove_prefix(1);
    *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

bool Skip(std::string_view* bytes, size_t count) {
  if (bytes->size() < count) return false;
  bytes->remove_prefix(count);
  return true;
}

std::string Walk(const Descriptor& descriptor, std::string_view bytes, const std::string& path,
                 int depth) {
  while (!bytes.empty() && depth < kDepthMax) {
    uint64_t tag = 0, length = 0;
    if (!ReadVarint(&bytes, &tag)) return "";
    switch (tag & 7) {
      case 0:
        if (!ReadVarint(&bytes, &length)) return "";
        continue;
      case 1:
        if (!Skip(&bytes, 8)) return "";
        continue;
      case 5:
        if (!Skip(&bytes, 4)) return "";
        continue;
      case 2:
        break;
      default:
        return "";
    }
    if (!ReadVarint(&bytes, &length) || length > bytes.size()) return "";
    const std::string_view part = bytes.substr(0, length);
    bytes.remove_prefix(length);
    const FieldDescriptor* field = descriptor.FindFieldByNumber(static_cast<int>(tag >> 3));
    if (field == nullptr) continue;
    const std::string name = path + field->name();
    if (field->type() == FieldDescriptor::TYPE_STRING) {
      if (const auto offset = InvalidUtf8Offset(part)) {
        return name + ": invalid UTF-8 at byte " + std::to_string(*offset);
      }
    } else if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      std::string found = Walk(*field->message_type(), part, name + ".", depth + 1);
      if (!found.empty()) return found;
    }
  }
  return "";
}

}  // namespace

std::optional<size_t> InvalidUtf8Offset(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const uint8_t lead = static_cast<uint8_t>(text[i]);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const int extra = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || i + extra >= text.size()) return i;
    uint32_t code = lead & (0x3f >> extra);
    for (int j = 1; j <= extra; ++j) {
      const uint8_t next = static_cast<uint8_t>(text[i + j]);
      if ((next & 0xc0) != 0x80) return i;
      code = code << 6 | (next & 0x3f);
    }
    const uint32_t least = extra == 3 ? 0x10000 : extra == 2 ? 0x800 : 0x80;
    if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return i;
    i += extra + 1;
  }
  return std::nullopt;
}

std::string FindInvalidText(const Descriptor& descriptor, std::string_view bytes) {
  return Walk(descriptor, bytes, "", 0);
}

}  // namespace lola::rpc
