// What scripts learn from `lola`: its exit codes. Part of the command line's contract.
#ifndef LOLA_SERVICES_CLI_EXIT_CODES_H_
#define LOLA_SERVICES_CLI_EXIT_CODES_H_

#include "absl/status/status.h"

namespace lola::cli {

inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;       // the service or the command failed
inline constexpr int kUsage = 2;        // bad flags or values
inline constexpr int kUnreachable = 3;  // the endpoint, or what it needs, does not answer
inline constexpr int kNotFound = 4;     // no such stream, snapshot, file
inline constexpr int kRefused = 5;      // exists already, owned, other model, stale, limits
inline constexpr int kInterrupted = 130;

int ExitCode(const absl::Status& status);

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_EXIT_CODES_H_
