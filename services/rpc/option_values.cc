// Typed values: sizes and durations.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <utility>

#include "services/rpc/options.h"

namespace lola::rpc {
namespace {

struct Split {
  double number = 0;
  bool whole = false;  // digits only
  std::string_view unit;
};

// Number in front, unit behind; false when there is no number.
bool SplitUnit(std::string_view text, Split* split) {
  size_t end = 0;
  while (end < text.size() && ((text[end] >= '0' && text[end] <= '9') || text[end] == '.')) ++end;
  if (end == 0 || end > 30) return false;
  const std::string digits(text.substr(0, end));
  char* stop = nullptr;
  split->number = std::strtod(digits.c_str(), &stop);
  if (stop != digits.c_str() + digits.size()) return false;
  split->whole = digits.find('.') == std::string::npos;
  split->unit = text.substr(end);
  return std::isfinite(split->number);
}

constexpr std::pair<std::string_view, uint64_t> kByteUnits[] = {{"GiB", uint64_t{1} << 30},
                                                                {"MiB", uint64_t{1} << 20},
                                                                {"KiB", uint64_t{1} << 10},
                                                                {"GB", 1000000000},
                                                                {"gb", 1000000000},
                                                                {"MB", 1000000},
                                                                {"mb", 1000000},
                                                                {"kB", 1000},
                                                                {"kb", 1000},
                                                                {"KB", 1000},
                                                                {"B", 1},
                                                                {"", 1}};

constexpr std::pair<std::string_view, double> kTimeUnits[] = {
    {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(std::string_view text) {
  Split split;
  if (SplitUnit(text, &split)) {
    for (const auto& [unit, factor] : kByteUnits) {
      if (split.unit != unit) continue;
      const double bytes = split.number * static_cast<double>(factor);
      if (bytes > 9e18 || (factor == 1 && !split.whole)) break;
      return static_cast<uint64_t>(bytes);
    }
  }
  return absl::InvalidArgumentError("'" + std::string(text) +
                                    "' is not a size such as 4096, 64KiB, 64MiB or 2GiB");
}

absl::StatusOr<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  Split split;
  if (text == "0") return std::chrono::milliseconds(0);
  if (SplitUnit(text, &split)) {
    for (const auto& [unit, factor] : kTimeUnits) {
      if (split.unit != unit) continue;
      const double ms = split.number * factor;
      if (ms > 9e15) break;
      return std::chrono::milliseconds(static_cast<int64_t>(ms));
    }
  }
  return absl::InvalidArgumentError("'" + std::string(text) +
                                    "' is not a duration such as 250ms, 5s, 2m or 1h");
}

std::string FormatBytes(uint64_t bytes) {
  for (const auto& [unit, factor] : kByteUnits) {
    if (unit == "GB") break;  // binary units only
    if (bytes >= factor && bytes % factor == 0) {
      return std::to_string(bytes / factor) + std::string(unit);
    }
  }
  return std::to_string(bytes);
}

std::string FormatDuration(std::chrono::milliseconds duration) {
  const int64_t ms = duration.count();
  if (ms != 0 && ms % 3600000 == 0) return std::to_string(ms / 3600000) + "h";
  if (ms != 0 && ms % 60000 == 0) return std::to_string(ms / 60000) + "m";
  if (ms != 0 && ms % 1000 == 0) return std::to_string(ms / 1000) + "s";
  return std::to_string(ms) + "ms";
}

}  // namespace lola::rpc
