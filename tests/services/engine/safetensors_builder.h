// Builds safetensors files for tests, well-formed or deliberately not.
#ifndef LOLA_TESTS_SERVICES_ENGINE_SAFETENSORS_BUILDER_H_
#define LOLA_TESTS_SERVICES_ENGINE_SAFETENSORS_BUILDER_H_

#include <cstdint>
#include <span>
#include <string>

namespace lola::engine {

// header length + header + data.
inline std::string SafetensorsFile(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  std::string file(reinterpret_cast<const char*>(&size), sizeof(size));
  return file + header + data;
}

inline std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace lola::engine

#endif  // LOLA_TESTS_SERVICES_ENGINE_SAFETENSORS_BUILDER_H_
