// The commands of `lola`, one function each. They print to stdout (text, or one JSON document with
// --json), notes and progress to stderr. Called from main, once.
#ifndef LOLA_SERVICES_CLI_COMMANDS_H_
#define LOLA_SERVICES_CLI_COMMANDS_H_

#include "absl/status/status.h"
#include "services/cli/cli_flags.h"
#include "services/cli/connection.h"

namespace lola::cli {

absl::Status Chat(const Connection& connection, const CliFlags& flags);
absl::Status Feed(const Connection& connection, const CliFlags& flags);
absl::Status Ask(const Connection& connection, const CliFlags& flags);

absl::Status List(const Connection& connection, const CliFlags& flags);
absl::Status Describe(const Connection& connection, const CliFlags& flags);
absl::Status Inspect(const Connection& connection, const CliFlags& flags);
absl::Status Fork(const Connection& connection, const CliFlags& flags);
absl::Status Snapshot(const Connection& connection, const CliFlags& flags);
absl::Status Rewind(const Connection& connection, const CliFlags& flags);
absl::Status Remove(const Connection& connection, const CliFlags& flags);

absl::Status Migrate(const Connection& connection, const CliFlags& flags);
absl::Status Drain(const Connection& connection, const CliFlags& flags);
absl::Status Workers(const Connection& connection, const CliFlags& flags);
absl::Status Shards(const Connection& connection, const CliFlags& flags);
absl::Status ModelInfo(const Connection& connection, const CliFlags& flags);
// `model info --model`: from the model's config.json, needs no endpoint.
absl::Status LocalModelInfo(const CliFlags& flags);

absl::Status Bench(const Connection& connection, const CliFlags& flags);
// In this process with --model, through the endpoint without; connects by itself.
absl::Status Eval(const CliFlags& flags);

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_COMMANDS_H_
