#include "memory/env/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "memory/ids.h"

namespace lola::memory {
namespace {

enum class Action { kKill, kError, kSleep };

struct Rule {
  Action action = Action::kKill;
  uint64_t from_passage = 1;
  int64_t sleep_ms = 0;
  uint64_t passages = 0;
};

absl::Status Unreadable(std::string_view part, std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("LOLA_FAILPOINTS: ", Quoted(part), ": ", std::string(why)));
}

absl::Status ParseRule(const std::string& part, std::map<std::string, Rule>* rules) {
  const size_t equals = part.find('=');
  if (equals == 0 || equals == std::string::npos) return Unreadable(part, "wants name=action");
  std::string action = part.substr(equals + 1);
  Rule rule;
  if (const size_t at = action.find('@'); at != std::string::npos) {
    if (!absl::SimpleAtoi(action.substr(at + 1), &rule.from_passage) || rule.from_passage == 0) {
      return Unreadable(part, "wants a number of at least 1 behind @");
    }
    action.resize(at);
  }
  if (action == "kill") {
    rule.action = Action::kKill;
  } else if (action == "error") {
    rule.action = Action::kError;
  } else if (action.rfind("sleep:", 0) == 0) {
    rule.action = Action::kSleep;
    if (!absl::SimpleAtoi(action.substr(6), &rule.sleep_ms) || rule.sleep_ms < 0) {
      return Unreadable(part, "wants milliseconds behind sleep:");
    }
  } else {
    return Unreadable(part, "knows the actions kill, error, sleep:ms");
  }
  (*rules)[part.substr(0, equals)] = rule;
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, Rule>> ParseRules(std::string_view text) {
  std::map<std::string, Rule> rules;
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(text.data(), text.size()), ';', absl::SkipEmpty());
  for (const std::string& part : parts) {
    if (absl::Status status = ParseRule(part, &rules); !status.ok()) return status;
  }
  return rules;
}

}  // namespace

class FailpointRegistry {
 public:
  static FailpointRegistry& Get() {
    static FailpointRegistry* const registry = new FailpointRegistry;  // outlives all places
    return *registry;
  }

  void Add(Failpoint* place) {
    std::lock_guard lock(mu_);
    places_.push_back(place);
    place->armed_.store(rules_.count(place->name()) > 0, std::memory_order_relaxed);
  }

  absl::Status Arm(std::string_view text) {
    auto rules = ParseRules(text);
    if (!rules.ok()) return rules.status();
    std::lock_guard lock(mu_);
    rules_ = *std::move(rules);
    for (Failpoint* place : places_) {
      place->armed_.store(rules_.count(place->name()) > 0, std::memory_order_relaxed);
    }
    return absl::OkStatus();
  }

  absl::Status Pass(const char* name) {
    int64_t sleep_ms = 0;
    {
      std::lock_guard lock(mu_);
      const auto found = rules_.find(name);
      if (found == rules_.end()) return absl::OkStatus();
      Rule& rule = found->second;
      if (++rule.passages < rule.from_passage) return absl::OkStatus();
      if (rule.action == Action::kKill) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
      }
      if (rule.action == Action::kError) {
        return absl::InternalError(absl::StrCat("failpoint ", name));
      }
      sleep_ms = rule.sleep_ms;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(sleep_ms));
    return absl::OkStatus();
  }

  uint64_t Passages(std::string_view name) {
    std::lock_guard lock(mu_);
    const auto found = rules_.find(std::string(name));
    return found == rules_.end() ? 0 : found->second.passages;
  }

  std::vector<std::string> Names() {
    std::lock_guard lock(mu_);
    std::set<std::string> names;
    for (const Failpoint* place : places_) names.insert(place->name());
    return {names.begin(), names.end()};
  }

 private:
  FailpointRegistry() {
    const char* text = std::getenv("LOLA_FAILPOINTS");
    if (text == nullptr) return;
    auto rules = ParseRules(text);
    if (!rules.ok()) {  // a test that arms nothing by mistake would pass for the wrong reason
      std::fprintf(stderr, "%s\n", std::string(rules.status().message()).c_str());
      std::_Exit(2);
    }
    rules_ = *std::move(rules);
  }

  std::mutex mu_;
  std::vector<Failpoint*> places_;     // guarded by mu_
  std::map<std::string, Rule> rules_;  // guarded by mu_
};

Failpoint::Failpoint(const char* name) : name_(name) { FailpointRegistry::Get().Add(this); }

absl::Status Failpoint::PassSlow() { return FailpointRegistry::Get().Pass(name_); }

absl::Status ArmFailpoints(std::string_view text) { return FailpointRegistry::Get().Arm(text); }

uint64_t FailpointPassages(std::string_view name) {
  return FailpointRegistry::Get().Passages(name);
}

std::vector<std::string> ReachedFailpoints() { return FailpointRegistry::Get().Names(); }

}  // namespace lola::memory
