// lola: the command line. Wiring only.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <map>

#include "services/cli/commands.h"
#include "services/cli/exit_codes.h"
#include "services/rpc/server_runner.h"

namespace {

using lola::cli::CliFlags;
using lola::cli::Connection;
using Command = absl::Status (*)(const Connection&, const CliFlags&);

const std::map<std::string, Command>& Commands() {
  static const auto& commands =
      *new std::map<std::string, Command>{{"chat", lola::cli::Chat},
                                          {"feed", lola::cli::Feed},
                                          {"ask", lola::cli::Ask},
                                          {"ls", lola::cli::List},
                                          {"describe", lola::cli::Describe},
                                          {"inspect", lola::cli::Inspect},
                                          {"fork", lola::cli::Fork},
                                          {"snapshot", lola::cli::Snapshot},
                                          {"rewind", lola::cli::Rewind},
                                          {"rm", lola::cli::Remove},
                                          {"migrate", lola::cli::Migrate},
                                          {"drain", lola::cli::Drain},
                                          {"workers", lola::cli::Workers},
                                          {"shards", lola::cli::Shards},
                                          {"model info", lola::cli::ModelInfo},
                                          {"bench", lola::cli::Bench}};
  return commands;
}

absl::Status Run(const std::string& command, const CliFlags& flags) {
  if (command == "eval") return lola::cli::Eval(flags);
  if (command == "model info" && !flags.info_model.empty()) return lola::cli::LocalModelInfo(flags);
  const auto found = Commands().find(command);
  if (found == Commands().end()) {
    return absl::InvalidArgumentError("'" + command + "' needs a command behind it (see --help)");
  }
  auto connection = lola::cli::Connect(flags.endpoint, flags.timeout, flags.tls);
  if (!connection.ok()) return connection.status();
  return found->second(*connection, flags);
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_DFL);  // `lola ls | head` ends quietly
  CliFlags flags;
  lola::rpc::OptionSet set("lola", "Streams of text with a lasting memory, from the command line.");
  lola::cli::RegisterCli(set, &flags);
  auto outcome = set.Parse(argc, argv);
  if (!outcome.ok()) {
    lola::rpc::ReportFatal("lola", outcome.status());
    return lola::cli::kUsage;
  }
  if (*outcome == lola::rpc::OptionSet::Outcome::kHelpShown) return lola::cli::kOk;
  const absl::Status status = Run(set.chosen(), flags);
  if (status.ok()) return lola::cli::kOk;
  lola::rpc::ReportFatal("lola", status);
  // At once: a thread of gRPC may still be at a connection that was given up, in OpenSSL, whose
  // exit handlers free what it uses.
  std::fflush(nullptr);
  std::cout.flush();
  _exit(lola::cli::ExitCode(status));
}
