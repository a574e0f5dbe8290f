#include "services/rpc/logging.h"

#include <memory>
#include <utility>

#include "nlohmann/json.hpp"
#include "services/rpc/options.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace lola::rpc {
namespace {

struct Logger {
  std::shared_ptr<spdlog::logger> sink = spdlog::stderr_color_mt("lola");
  bool json = false;
  std::string process = "lola";
};

Logger& Shared() {
  static Logger& logger = *new Logger();  // never destroyed: threads may log until the very end
  return logger;
}

spdlog::level::level_enum LevelOf(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::string JsonText(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

LogField::LogField(std::string_view name, const absl::Status& status)
    : name(name), text(status.ToString()) {}

void RegisterLogOptions(OptionSet& set, LogOptions* options) {
  set.Add("log-level", &options->level, "debug, info, warn, error or off");
  set.Add("log-format", &options->format, "text or json (one object a line)");
}

absl::Status InitLogging(const LogOptions& options, std::string_view process) {
  const spdlog::level::level_enum level = spdlog::level::from_str(options.level);
  if (level == spdlog::level::off && options.level != "off") {
    return absl::InvalidArgumentError("--log-level: '" + options.level +
                                      "' is not debug, info, warn, error or off");
  }
  if (options.format != "text" && options.format != "json") {
    return absl::InvalidArgumentError("--log-format: '" + options.format + "' is not text or json");
  }
  Logger& logger = Shared();
  logger.json = options.format == "json";
  logger.process = std::string(process);
  logger.sink->set_level(level);
  logger.sink->flush_on(spdlog::level::info);
  if (logger.json) {
    logger.sink->set_pattern(R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v})");
  } else {
    logger.sink->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%-5l%$ " + logger.process + ": %v");
  }
  return absl::OkStatus();
}

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  Logger& logger = Shared();
  const spdlog::level::level_enum spd_level = LevelOf(level);
  if (!logger.sink->should_log(spd_level)) return;
  std::string line;
  if (logger.json) {
    line = "\"process\":" + JsonText(logger.process) + ",\"message\":" + JsonText(message);
    for (const LogField& field : fields) {
      line += "," + JsonText(field.name) + ":" + (field.number ? field.text : JsonText(field.text));
    }
  } else {
    line = std::string(message);
    for (const LogField& field : fields) line += " " + field.name + "=" + field.text;
  }
  logger.sink->log(spd_level, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace lola::rpc
