// Log lines to stderr: text for people, one JSON object a line with --log-format json.
// Log() is safe from any thread; InitLogging is called once, first thing in main.
#ifndef LOLA_SERVICES_RPC_LOGGING_H_
#define LOLA_SERVICES_RPC_LOGGING_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"

namespace lola::rpc {

class OptionSet;

struct LogOptions {
  std::string level = "info";   // debug | info | warn | error | off
  std::string format = "text";  // text | json
};

// --log-level, --log-format.
void RegisterLogOptions(OptionSet& set, LogOptions* options);
// `process` is written into every line. Error: INVALID_ARGUMENT naming option and value.
absl::Status InitLogging(const LogOptions& options, std::string_view process);

enum class LogLevel { kDebug, kInfo, kWarn, kError };

// A named value of a log line.
struct LogField {
  LogField(std::string_view name, std::string_view text) : name(name), text(text) {}
  LogField(std::string_view name, const char* text) : name(name), text(text) {}
  LogField(std::string_view name, const std::string& text) : name(name), text(text) {}
  LogField(std::string_view name, const absl::Status& status);
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  LogField(std::string_view name, T number)
      : name(name), text(std::to_string(number)), number(true) {}
  std::string name;
  std::string text;
  bool number = false;
};

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});
inline void LogInfo(std::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kInfo, message, fields);
}
inline void LogWarn(std::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kWarn, message, fields);
}
inline void LogError(std::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kError, message, fields);
}

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_LOGGING_H_
