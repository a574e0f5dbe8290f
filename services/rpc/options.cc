#include "services/rpc/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <map>
#include <set>
#include <type_traits>
#include <utility>

namespace lola::rpc {
namespace {

// A default as --help shows it: one line, whatever it holds.
std::string Shown(const std::string& text) {
  std::string shown;
  for (const char c : text) shown += c == '\n' ? "\\n" : std::string(1, c);
  return shown;
}

// Takes the texts given for one option; the status says what is wrong with them.
using Setter = std::function<absl::Status(const std::vector<std::string>&)>;

template <typename Number>
absl::Status ParseNumber(const std::string& text, Number* value) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, *value);
  if (result.ec == std::errc() && result.ptr == end) return absl::OkStatus();
  if (result.ec == std::errc::result_out_of_range) {
    return absl::InvalidArgumentError("'" + text + "' is out of range");
  }
  return absl::InvalidArgumentError("'" + text + "' is not " +
                                    (std::is_integral_v<Number> ? "a whole number" : "a number"));
}

absl::Status ParseBool(const std::string& text, bool* value) {
  static const std::set<std::string> kYes = {"1", "true", "yes", "on"};
  static const std::set<std::string> kNo = {"0", "false", "no", "off"};
  if (kYes.count(text) == 0 && kNo.count(text) == 0) {
    return absl::InvalidArgumentError("'" + text + "' is not true or false");
  }
  *value = kYes.count(text) != 0;
  return absl::OkStatus();
}

std::vector<std::string> SplitCommas(const std::vector<std::string>& texts) {
  std::vector<std::string> parts;
  for (const std::string& text : texts) {
    for (const std::string& part : CLI::detail::split(text, ',')) {
      if (!part.empty()) parts.push_back(part);
    }
  }
  return parts;
}

std::string EnvName(const std::string& name) {
  std::string env = "LOLA_";
  for (const char c : name) {
    env += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return env;
}

using ConfigValues = std::map<std::string, std::vector<std::string>>;

absl::StatusOr<ConfigValues> ReadConfig(const std::string& path) {
  ConfigValues values;
  try {
    for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_file(path)) {
      if (item.name == "++" || item.name == "--") continue;  // section marks
      values[item.fullname()] = item.inputs;
    }
  } catch (const CLI::FileError&) {
    return absl::NotFoundError("config file '" + path + "' cannot be read");
  } catch (const CLI::Error& error) {
    return absl::InvalidArgumentError("config file '" + path + "': " + error.what());
  }
  return values;
}

}  // namespace

struct OptionSet::Impl {
  struct Entry {
    CLI::Option* option = nullptr;
    Setter set;
    bool given = false;
  };

  // Root only.
  std::unique_ptr<CLI::App> owned;
  std::string config_path;

  CLI::App* app = nullptr;
  std::map<std::string, Entry> entries;
  std::vector<Entry> positionals;
  std::vector<std::unique_ptr<OptionSet>> commands;

  void Register(const std::string& name, const std::string& help, const std::string& shown,
                bool is_flag, bool many, Setter set) {
    // Const: CLI11 takes a non-const second argument for a variable to be bound, not for help.
    const std::string text = help + " [env " + EnvName(name) + "]" +
                             (shown.empty() ? "" : " (default " + Shown(shown) + ")");
    Entry& entry = entries[name];
    entry.option = is_flag ? app->add_flag("--" + name, text) : app->add_option("--" + name, text);
    if (!is_flag) {
      entry.option->type_name("");
      entry.option->expected(1);
      entry.option->multi_option_policy(many ? CLI::MultiOptionPolicy::TakeAll
                                             : CLI::MultiOptionPolicy::Throw);
    }
    entry.set = std::move(set);
  }

  absl::Status Apply(const ConfigValues& config, std::set<std::string>* known) {
    for (auto& [name, entry] : entries) {
      known->insert(name);
      std::vector<std::string> texts;
      std::string origin;
      const std::string env = EnvName(name);
      const char* env_text = std::getenv(env.c_str());
      if (entry.option->count() > 0) {
        texts = entry.option->results();
        origin = "command line";
      } else if (env_text != nullptr) {
        texts = {env_text};
        origin = "environment " + env;
      } else if (const auto found = config.find(name); found != config.end()) {
        texts = found->second;
        origin = "config file";
      } else {
        continue;
      }
      entry.given = true;
      if (absl::Status status = entry.set(texts); !status.ok()) {
        return absl::InvalidArgumentError("--" + name + ": " + std::string(status.message()) +
                                          " (from the " + origin + ")");
      }
    }
    for (Entry& entry : positionals) {
      if (entry.option->count() == 0) continue;
      if (absl::Status status = entry.set(entry.option->results()); !status.ok()) {
        return absl::InvalidArgumentError(entry.option->get_name() + ": " +
                                          std::string(status.message()));
      }
    }
    for (auto& command : commands) {
      if (!command->impl_->app->parsed()) continue;
      if (absl::Status status = command->impl_->Apply(config, known); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Options of commands that were not chosen are no unknown keys either.
  void AddKnown(std::set<std::string>* known) const {
    for (const auto& [name, entry] : entries) known->insert(name);
    for (const auto& command : commands) command->impl_->AddKnown(known);
  }
};

OptionSet::OptionSet(std::string program, std::string description)
    : impl_(std::make_unique<Impl>()) {
  impl_->owned = std::make_unique<CLI::App>(std::move(description), std::move(program));
  impl_->app = impl_->owned.get();
  impl_->app
      ->add_option("--config", impl_->config_path,
                   "TOML file with option values; keys are flag names without dashes in "
                   "front [env LOLA_CONFIG]")
      ->type_name("");
  impl_->app->set_version_flag("--version", std::string(LOLA_VERSION));
  impl_->app->get_formatter()->column_width(30);
}

OptionSet::OptionSet(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
OptionSet::~OptionSet() = default;

namespace {
template <typename Parse>
Setter One(Parse parse) {
  return [parse](const std::vector<std::string>& texts) {
    return parse(texts.empty() ? std::string() : texts.back());
  };
}
template <typename Number>
Setter NumberSetter(Number* value) {
  return One([value](const std::string& text) { return ParseNumber(text, value); });
}
}  // namespace

void OptionSet::Add(std::string name, std::string* value, std::string help) {
  impl_->Register(name, help, *value, false, false, One([value](const std::string& text) {
                    *value = text;
                    return absl::OkStatus();
                  }));
}
void OptionSet::Add(std::string name, uint64_t* value, std::string help) {
  impl_->Register(name, help, std::to_string(*value), false, false, NumberSetter(value));
}
void OptionSet::Add(std::string name, uint32_t* value, std::string help) {
  impl_->Register(name, help, std::to_string(*value), false, false, NumberSetter(value));
}
void OptionSet::Add(std::string name, int64_t* value, std::string help) {
  impl_->Register(name, help, std::to_string(*value), false, false, NumberSetter(value));
}
void OptionSet::Add(std::string name, int* value, std::string help) {
  impl_->Register(name, help, std::to_string(*value), false, false, NumberSetter(value));
}
void OptionSet::Add(std::string name, double* value, std::string help) {
  std::string shown = std::to_string(*value);
  shown.erase(shown.find_last_not_of('0') + 1);
  if (shown.back() == '.') shown.pop_back();
  impl_->Register(name, help, shown, false, false, NumberSetter(value));
}
void OptionSet::Add(std::string name, bool* value, std::string help) {
  impl_->Register(name, help, *value ? "true" : "", true, false,
                  One([value](const std::string& text) { return ParseBool(text, value); }));
}
void OptionSet::Add(std::string name, Bytes* value, std::string help) {
  impl_->Register(name, help, FormatBytes(value->value), false, false,
                  One([value](const std::string& text) {
                    auto bytes = ParseBytes(text);
                    if (bytes.ok()) value->value = *bytes;
                    return bytes.status();
                  }));
}
void OptionSet::Add(std::string name, std::chrono::milliseconds* value, std::string help) {
  impl_->Register(name, help, FormatDuration(*value), false, false,
                  One([value](const std::string& text) {
                    auto duration = ParseDuration(text);
                    if (duration.ok()) *value = *duration;
                    return duration.status();
                  }));
}
void OptionSet::Add(std::string name, std::vector<std::string>* value, std::string help) {
  std::string shown;
  for (const std::string& part : *value) shown += (shown.empty() ? "" : ",") + part;
  impl_->Register(name, help, shown, false, true, [value](const std::vector<std::string>& texts) {
    *value = SplitCommas(texts);
    return absl::OkStatus();
  });
}

void OptionSet::AddPositional(std::string name, std::string* value, std::string help,
                              bool required) {
  CLI::Option* option =
      impl_->app->add_option(name, std::as_const(help))->type_name("")->expected(1);
  option->required(required);
  impl_->positionals.push_back({option, One([value](const std::string& text) {
                                  *value = text;
                                  return absl::OkStatus();
                                })});
}

void OptionSet::AddPositionals(std::string name, std::vector<std::string>* values,
                               std::string help) {
  CLI::Option* option =
      impl_->app->add_option(name, std::as_const(help))->type_name("")->expected(0, -1);
  impl_->positionals.push_back({option, [values](const std::vector<std::string>& texts) {
                                  *values = texts;
                                  return absl::OkStatus();
                                }});
}

OptionSet& OptionSet::AddCommand(std::string name, std::string description) {
  impl_->app->require_subcommand(1);
  auto child = std::make_unique<Impl>();
  child->app = impl_->app->add_subcommand(std::move(name), std::move(description));
  child->app->fallthrough();
  impl_->commands.push_back(std::unique_ptr<OptionSet>(new OptionSet(std::move(child))));
  return *impl_->commands.back();
}

std::string OptionSet::chosen() const {
  for (const auto& command : impl_->commands) {
    if (!command->impl_->app->parsed()) continue;
    const std::string rest = command->chosen();
    return command->impl_->app->get_name() + (rest.empty() ? "" : " " + rest);
  }
  return "";
}

void OptionSet::SetExamples(std::string text) { impl_->app->footer(std::move(text)); }

bool OptionSet::Given(std::string_view name) const {
  const auto found = impl_->entries.find(std::string(name));
  return found != impl_->entries.end() && found->second.given;
}

absl::StatusOr<OptionSet::Outcome> OptionSet::Parse(int argc, const char* const* argv) {
  try {
    impl_->app->parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help and --version come as exceptions
    impl_->app->exit(help, std::cout, std::cerr);
    return Outcome::kHelpShown;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(std::string(error.what()) + " (see --help)");
  }
  if (impl_->config_path.empty()) {
    if (const char* env = std::getenv("LOLA_CONFIG"); env != nullptr) impl_->config_path = env;
  }
  ConfigValues config;
  if (!impl_->config_path.empty()) {
    auto values = ReadConfig(impl_->config_path);
    if (!values.ok()) return values.status();
    config = *std::move(values);
  }
  std::set<std::string> known;
  impl_->AddKnown(&known);
  for (const auto& [key, texts] : config) {
    if (known.count(key) == 0) {
      return absl::InvalidArgumentError("config file '" + impl_->config_path + "': unknown key '" +
                                        key + "'");
    }
  }
  if (absl::Status status = impl_->Apply(config, &known); !status.ok()) return status;
  return Outcome::kRun;
}

}  // namespace lola::rpc
