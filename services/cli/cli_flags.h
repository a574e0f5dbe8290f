// All flags of `lola`, filled by RegisterCli. Plain values.
#ifndef LOLA_SERVICES_CLI_CLI_FLAGS_H_
#define LOLA_SERVICES_CLI_CLI_FLAGS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "services/cli/eval_flags.h"
#include "services/rpc/channel.h"
#include "services/rpc/options.h"

namespace lola::cli {

struct CliFlags {
  // Everywhere.
  std::string endpoint = "127.0.0.1:50051";
  bool json = false;
  std::chrono::milliseconds timeout{60000};
  rpc::ChannelOptions tls;

  // Arguments of commands.
  std::string stream, other, file, text;

  // Opening a stream.
  std::vector<std::string> labels;
  std::string tenant, profile, mode, durability = "local";
  int cache_pairs = -1;  // -1 = the model's default
  bool no_create = false;

  // Generating.
  uint32_t max_tokens = 256;
  std::vector<std::string> stop;
  double temperature = 0;
  double top_p = 1;
  uint32_t top_k = 0;
  uint64_t seed = 0;
  bool ignore_eos = false;
  bool aside = false;

  // Single commands.
  std::string prefix, suffix = "\n";                  // chat
  std::string template_dir, system;                   // chat
  rpc::Bytes piece{32 << 10};                         // feed
  uint64_t limit = 0;                                 // ls
  std::string id_prefix;                              // ls
  int layer = -1, head = -1;                          // inspect
  uint32_t top = 8;                                   // inspect
  int64_t at = -1;                                    // fork, rewind
  std::string request_id;                             // fork, rewind
  std::string name, to, worker;                       // snapshot, rewind, migrate, drain
  std::chrono::milliseconds deadline{30000};          // drain
  std::string info_model;                             // model info
  uint32_t window = 0;                                // model info
  uint32_t streams = 4, prompt = 1024, tokens = 128;  // bench

  EvalFlags eval;
};

void RegisterCli(rpc::OptionSet& set, CliFlags* flags);

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_CLI_FLAGS_H_
