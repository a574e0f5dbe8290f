#include "services/cli/turns.h"

#include <ctime>

namespace lola::cli {
namespace {

// As strftime writes it in the C locale, whatever this process speaks: "%d %b %Y" or "%Y-%m-%d".
std::string Today(std::string_view format) {
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  const auto two = [](int number) { return (number < 10 ? "0" : "") + std::to_string(number); };
  const std::string day = two(local.tm_mday), year = std::to_string(1900 + local.tm_year);
  if (format == "%Y-%m-%d") return year + "-" + two(local.tm_mon + 1) + "-" + day;
  return day + " " + kMonths[local.tm_mon] + " " + year;
}

}  // namespace

absl::StatusOr<Turns> Turns::Load(const CliFlags& flags) {
  auto tokenizer = engine::LoadTokenizer(flags.template_dir);
  if (!tokenizer.ok()) return tokenizer.status();
  auto chat = engine::ChatTemplate::Load(flags.template_dir);
  if (!chat.ok()) return chat.status();
  if (!*chat) {
    return absl::FailedPreconditionError("--template: '" + flags.template_dir +
                                         "' has no chat_template in tokenizer_config.json");
  }
  if (absl::Status fits = (*chat)->CheckTokenizer(**tokenizer); !fits.ok()) return fits;
  return Turns(*std::move(tokenizer), **std::move(chat), flags.system);
}

absl::StatusOr<std::vector<int32_t>> Turns::Next(const std::string& line, uint64_t position) const {
  if (position > 0) {
    return engine::EncodeNextTurn(*tokenizer_, chat_.Next(line), ended_by_model_);
  }
  std::vector<engine::ChatMessage> messages;
  if (!system_.empty()) messages.push_back({"system", system_});
  messages.push_back({"user", line});
  auto text = chat_.Begin(messages, chat_.date_format().empty() ? "" : Today(chat_.date_format()));
  if (!text.ok()) return text.status();
  return engine::EncodeChat(*tokenizer_, *text);
}

}  // namespace lola::cli
