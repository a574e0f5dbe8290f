// inspect: the sparse cache as readable text.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_join.h"
#include "services/cli/commands.h"
#include "services/cli/output.h"

namespace lola::cli {
namespace {

std::string ErrorText(float error) {
  if (std::isnan(error)) return "not scored";
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", static_cast<double>(error));
  return text;
}

// Hardest first; pairs never scored last.
bool Harder(const v1::CachedPair& a, const v1::CachedPair& b) {
  const float x = std::isnan(a.recall_error()) ? -1 : a.recall_error();
  const float y = std::isnan(b.recall_error()) ? -1 : b.recall_error();
  return x != y ? x > y : a.position() < b.position();
}

std::string HeadText(const v1::HeadMemory& head, uint32_t top) {
  std::vector<v1::CachedPair> pairs(head.pairs().begin(), head.pairs().end());
  std::sort(pairs.begin(), pairs.end(), Harder);
  std::string text = "layer " + std::to_string(head.layer()) + " head " +
                     std::to_string(head.head()) + ": " + Grouped(pairs.size()) + " pairs kept, " +
                     Grouped(head.absorbed_pairs()) + " absorbed\n";
  if (top > 0 && pairs.size() > top) pairs.resize(top);
  std::vector<std::vector<std::string>> rows;
  for (const v1::CachedPair& pair : pairs) {
    rows.push_back(
        {"  " + Grouped(pair.position()), ErrorText(pair.recall_error()), OneLine(pair.context())});
  }
  if (!rows.empty()) {
    rows.insert(rows.begin(), {"  POSITION", "RECALL ERROR", "AROUND IT"});
    text += Table(rows);
  }
  return text;
}

}  // namespace

absl::Status Inspect(const Connection& connection, const CliFlags& flags) {
  v1::InspectMemoryRequest request;
  request.set_stream_id(flags.stream);
  if (flags.layer >= 0) request.set_layer(static_cast<uint32_t>(flags.layer));
  if (flags.head >= 0) request.set_head(static_cast<uint32_t>(flags.head));
  auto reply =
      Call(connection, *connection.inference, &v1::Inference::Stub::InspectMemory, request);
  if (!reply.ok()) return reply.status();
  if (flags.json) {
    PrintJson(*reply);
    return absl::OkStatus();
  }
  std::string text = "position " + Grouped(reply->position()) + ", state " +
                     HumanBytes(reply->state_bytes()) + ", digest " + reply->state_digest() + "\n";
  if (reply->computed_by_size() > 0) {
    text += "computed by " + OneLine(absl::StrJoin(reply->computed_by(), ", ")) + "\n";
  }
  for (const v1::HeadMemory& head : reply->heads()) text += "\n" + HeadText(head, flags.top);
  PrintText(text);
  return absl::OkStatus();
}

}  // namespace lola::cli
