// Small text files of the rpc room: PEM files, port files. Safe from any thread.
#ifndef LOLA_SERVICES_RPC_FILES_H_
#define LOLA_SERVICES_RPC_FILES_H_

#include <fstream>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lola::rpc {

// `option` names the flag the path came from. Error: NOT_FOUND naming option and path.
inline absl::StatusOr<std::string> ReadTextFile(const std::string& option,
                                                const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(option + ": cannot read '" + path + "'");
  }
  return text.str();
}

// As ReadTextFile; INVALID_ARGUMENT naming option and path when it holds no PEM block.
inline absl::StatusOr<std::string> ReadPemFile(const std::string& option, const std::string& path) {
  auto text = ReadTextFile(option, path);
  if (!text.ok() || text->find("-----BEGIN ") != std::string::npos) return text;
  return absl::InvalidArgumentError(option + ": '" + path + "' is not a PEM file");
}

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_FILES_H_
