#include "services/cli/opening.h"

#include <fstream>
#include <iostream>
#include <sstream>

#include "services/rpc/wire_text.h"

namespace lola::cli {

absl::StatusOr<std::map<std::string, std::string>> ParseLabels(
    const std::vector<std::string>& labels) {
  std::map<std::string, std::string> result;
  for (const std::string& label : labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError("--labels: '" + label + "' is not key=value");
    }
    result[label.substr(0, equals)] = label.substr(equals + 1);
  }
  return result;
}

absl::StatusOr<v1::OpenStream> OpenFromFlags(const CliFlags& flags) {
  v1::OpenStream open;
  open.set_stream_id(flags.stream);
  open.set_create_if_missing(!flags.no_create);
  open.set_tenant(flags.tenant);
  auto labels = ParseLabels(flags.labels);
  if (!labels.ok()) return labels.status();
  open.mutable_labels()->insert(labels->begin(), labels->end());
  if (flags.durability == "none") {
    open.set_durability(v1::DURABILITY_NONE);
  } else if (flags.durability != "local") {
    return absl::InvalidArgumentError("--durability: '" + flags.durability +
                                      "' is not local or none");
  }
  if (!flags.profile.empty()) open.mutable_settings()->set_profile(flags.profile);
  if (!flags.mode.empty()) open.mutable_settings()->set_mode(flags.mode);
  if (flags.cache_pairs >= 0) {
    open.mutable_settings()->set_cache_pairs(static_cast<uint32_t>(flags.cache_pairs));
  }
  return open;
}

v1::GenerateOp GenerateFromFlags(const CliFlags& flags) {
  v1::GenerateOp op;
  op.set_max_tokens(flags.max_tokens);
  for (const std::string& stop : flags.stop) op.add_stop(stop);
  op.set_ignore_eos(flags.ignore_eos);
  op.mutable_sampling()->set_temperature(static_cast<float>(flags.temperature));
  op.mutable_sampling()->set_top_p(static_cast<float>(flags.top_p));
  op.mutable_sampling()->set_top_k(flags.top_k);
  op.mutable_sampling()->set_seed(flags.seed);
  return op;
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ostringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
  } else {
    std::ifstream file(path, std::ios::binary);
    if (!file) return absl::NotFoundError("file '" + path + "' cannot be read");
    text << file.rdbuf();
  }
  std::string result = text.str();
  if (const auto offset = rpc::InvalidUtf8Offset(result)) {
    return absl::InvalidArgumentError("file '" + path + "': invalid UTF-8 at byte " +
                                      std::to_string(*offset));
  }
  return result;
}

}  // namespace lola::cli
