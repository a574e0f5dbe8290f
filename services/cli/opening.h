// Flags turned into messages. Errors: INVALID_ARGUMENT naming the flag and its value.
#ifndef LOLA_SERVICES_CLI_OPENING_H_
#define LOLA_SERVICES_CLI_OPENING_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "lola/v1/inference.pb.h"
#include "services/cli/cli_flags.h"

namespace lola::cli {

absl::StatusOr<std::map<std::string, std::string>> ParseLabels(
    const std::vector<std::string>& labels);
absl::StatusOr<v1::OpenStream> OpenFromFlags(const CliFlags& flags);
v1::GenerateOp GenerateFromFlags(const CliFlags& flags);
// The whole of a file, or of stdin for "-". NOT_FOUND; INVALID_ARGUMENT with the offset when it is
// not UTF-8.
absl::StatusOr<std::string> ReadText(const std::string& path);

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_OPENING_H_
