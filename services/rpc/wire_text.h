// UTF-8 checks and the search for the field that broke a message. proto3 refuses a message whose
// string field is not UTF-8 without saying which; FindInvalidText says it. Safe from any thread.
#ifndef LOLA_SERVICES_RPC_WIRE_TEXT_H_
#define LOLA_SERVICES_RPC_WIRE_TEXT_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace google::protobuf {
class Descriptor;
}  // namespace google::protobuf

namespace lola::rpc {

// Offset of the first byte that is not part of a valid UTF-8 character; nullopt = all valid.
// Overlong forms, surrogates and values above U+10FFFF are invalid.
std::optional<size_t> InvalidUtf8Offset(std::string_view text);

// Walks the bytes of a serialized message of type `descriptor`. Returns for instance
// "append.text: invalid UTF-8 at byte 17", or "" when the strings are fine (the bytes may still be
// no message at all).
std::string FindInvalidText(const google::protobuf::Descriptor& descriptor, std::string_view bytes);

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_WIRE_TEXT_H_
