// Options of a program. Every option is a flag (--cache-size), an environment variable
// (LOLA_CACHE_SIZE) and a key of the --config file (cache-size = "64MiB", TOML). Flag beats
// environment beats file beats default. Unknown flags and unknown keys are errors; a bad value is
// an error that names the option, where the value came from, and the value.
// One thread; lives in main. Values are written during Parse only, into the caller's variables.
#ifndef LOLA_SERVICES_RPC_OPTIONS_H_
#define LOLA_SERVICES_RPC_OPTIONS_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lola::rpc {

// "512", "64KiB", "64MiB", "2GiB", "10kB", "10MB", "10GB", "10mb" (same as MB); "64Mi" is refused.
absl::StatusOr<uint64_t> ParseBytes(std::string_view text);
// "250ms", "5s", "2m", "1h", "1.5s"; a bare number is refused except "0".
absl::StatusOr<std::chrono::milliseconds> ParseDuration(std::string_view text);
std::string FormatBytes(uint64_t bytes);                         // "64MiB"
std::string FormatDuration(std::chrono::milliseconds duration);  // "5s"

// A size in bytes as an option value; see ParseBytes.
struct Bytes {
  uint64_t value = 0;
};

class OptionSet {
 public:
  // `program` and `description` head the --help text.
  OptionSet(std::string program, std::string description);
  ~OptionSet();
  OptionSet(OptionSet&&) = delete;

  // `name` without dashes in front: "cache-size". The variable's present value is the default and
  // is shown in --help. The variable must outlive Parse.
  void Add(std::string name, std::string* value, std::string help);
  void Add(std::string name, uint64_t* value, std::string help);
  void Add(std::string name, uint32_t* value, std::string help);
  void Add(std::string name, int64_t* value, std::string help);
  void Add(std::string name, int* value, std::string help);
  void Add(std::string name, double* value, std::string help);
  void Add(std::string name, bool* value, std::string help);  // --x, --x=false
  void Add(std::string name, Bytes* value, std::string help);
  void Add(std::string name, std::chrono::milliseconds* value, std::string help);
  // Comma separated; the flag may also be given several times.
  void Add(std::string name, std::vector<std::string>* value, std::string help);

  // Positional argument; no environment twin and no config key.
  void AddPositional(std::string name, std::string* value, std::string help, bool required);
  void AddPositionals(std::string name, std::vector<std::string>* values, std::string help);

  // A subcommand with options of its own (options of the parent are accepted after it too).
  // Exactly one command must then be given; chosen() tells which, as "model info" for nested ones.
  OptionSet& AddCommand(std::string name, std::string description);
  std::string chosen() const;

  // Shown below the options in --help.
  void SetExamples(std::string text);

  // True when `name` was given by flag, environment or file. After Parse only.
  bool Given(std::string_view name) const;

  // kHelpShown: --help or --version was printed to stdout and the program should exit with 0.
  enum class Outcome { kRun, kHelpShown };
  // Errors: INVALID_ARGUMENT; NOT_FOUND for a missing --config file.
  absl::StatusOr<Outcome> Parse(int argc, const char* const* argv);

 private:
  struct Impl;
  OptionSet(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_OPTIONS_H_
