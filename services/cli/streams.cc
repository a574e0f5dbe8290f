// ls, describe, fork, snapshot, rewind, rm.
#include <algorithm>
#include <string>

#include "absl/strings/str_join.h"
#include "services/cli/commands.h"
#include "services/cli/opening.h"
#include "services/cli/output.h"

namespace lola::cli {
namespace {

using Stub = v1::Inference::Stub;

std::string LabelText(const v1::StreamInfo& info) {
  std::vector<std::string> parts;
  for (const auto& [key, value] : info.labels()) parts.push_back(key + "=" + value);
  std::sort(parts.begin(), parts.end());
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : " ") + part;
  return text;
}

std::string OwnerText(const v1::StreamInfo& info) {
  if (info.owner().empty()) return "nobody";
  return info.owner() + " (epoch " + std::to_string(info.owner_epoch()) + ", lease " +
         HumanSeconds(static_cast<double>(info.lease_remaining_ms()) / 1000) + ")";
}

std::string SettingsText(const v1::LolaSettings& s) {
  return s.mode() + ", profile " + s.profile() + ", window " + std::to_string(s.window()) +
         ", chunk " + std::to_string(s.chunk()) + ", cache " + std::to_string(s.cache_pairs()) +
         " pairs a head, mixing " + s.mixing() + ", memory positions " + s.memory_positions() +
         ", mass cap " + std::to_string(s.mass_cap()) + ", score " + s.score();
}

std::string DescriptionText(const v1::StreamInfo& info) {
  std::string text = Table({
      {"stream", info.stream_id()},
      {"position", Grouped(info.committed_position()) + " tokens, durable"},
      {"state", HumanBytes(info.state_bytes()) + ", constant"},
      {"owner", OwnerText(info)},
      {"computed by", info.instruction_class().empty() ? "-" : info.instruction_class()},
      {"memory", SettingsText(info.settings())},
      {"model", info.model_fingerprint()},
      {"labels", LabelText(info)},
      {"tenant", info.tenant()},
      {"parent", info.parent().empty() ? "-" : info.parent() + " at " + Grouped(info.forked_at())},
      {"partition", std::to_string(info.partition())},
      {"created", HumanTime(info.created_unix_ms())},
      {"last used", HumanTime(info.last_used_unix_ms())},
  });
  if (info.snapshots_size() == 0) return text + "snapshots  none\n";
  std::vector<std::vector<std::string>> rows = {
      {"snapshot", "position", "bytes", "made", "computed by", "digest"}};
  for (const v1::SnapshotInfo& snapshot : info.snapshots()) {
    rows.push_back({snapshot.name().empty() ? "(automatic)" : snapshot.name(),
                    Grouped(snapshot.position()), HumanBytes(snapshot.size_bytes()),
                    HumanTime(snapshot.created_unix_ms()),
                    absl::StrJoin(snapshot.instruction_classes(), ","), Hex(snapshot.digest())});
  }
  return text + "\n" + Table(rows);
}

// Says what became of a stream.
absl::Status PrintInfo(const absl::StatusOr<v1::StreamInfo>& info, const CliFlags& flags) {
  if (!info.ok()) return info.status();
  if (flags.json) {
    PrintJson(*info);
  } else {
    PrintText(DescriptionText(*info));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status List(const Connection& connection, const CliFlags& flags) {
  v1::ListRequest request;
  request.set_id_prefix(flags.id_prefix);
  auto labels = ParseLabels(flags.labels);
  if (!labels.ok()) return labels.status();
  request.mutable_labels()->insert(labels->begin(), labels->end());
  request.set_page_size(1000);
  v1::ListReply all;
  do {
    auto page = Call(connection, *connection.inference, &Stub::List, request);
    if (!page.ok()) return page.status();
    for (v1::StreamInfo& info : *page->mutable_streams()) *all.add_streams() = std::move(info);
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty() &&
           (flags.limit == 0 || static_cast<uint64_t>(all.streams_size()) < flags.limit));
  if (flags.limit > 0 && static_cast<uint64_t>(all.streams_size()) > flags.limit) {
    all.mutable_streams()->DeleteSubrange(static_cast<int>(flags.limit),
                                          all.streams_size() - static_cast<int>(flags.limit));
  }
  if (flags.json) {
    PrintJson(all);
    return absl::OkStatus();
  }
  std::sort(all.mutable_streams()->begin(), all.mutable_streams()->end(),
            [](const auto& a, const auto& b) { return a.stream_id() < b.stream_id(); });
  std::vector<std::vector<std::string>> rows = {
      {"STREAM", "POSITION", "STATE", "OWNER", "LAST USED", "LABELS"}};
  for (const v1::StreamInfo& info : all.streams()) {
    const bool owned = !info.owner().empty() && info.lease_remaining_ms() > 0;
    rows.push_back({info.stream_id(), Grouped(info.committed_position()),
                    HumanBytes(info.state_bytes()), owned ? info.owner() : "-",
                    HumanTime(info.last_used_unix_ms()), LabelText(info)});
  }
  PrintText(Table(rows));
  return absl::OkStatus();
}

absl::Status Describe(const Connection& connection, const CliFlags& flags) {
  v1::DescribeRequest request;
  request.set_stream_id(flags.stream);
  return PrintInfo(Call(connection, *connection.inference, &Stub::Describe, request), flags);
}

absl::Status Fork(const Connection& connection, const CliFlags& flags) {
  v1::ForkRequest request;
  request.set_stream_id(flags.stream);
  request.set_new_stream_id(flags.other);
  request.set_request_id(flags.request_id);
  if (flags.at >= 0) request.set_at_position(static_cast<uint64_t>(flags.at));
  auto labels = ParseLabels(flags.labels);
  if (!labels.ok()) return labels.status();
  request.mutable_labels()->insert(labels->begin(), labels->end());
  return PrintInfo(Call(connection, *connection.inference, &Stub::Fork, request), flags);
}

absl::Status Snapshot(const Connection& connection, const CliFlags& flags) {
  v1::SnapshotRequest request;
  request.set_stream_id(flags.stream);
  request.set_name(flags.name);
  auto info = Call(connection, *connection.inference, &Stub::Snapshot, request);
  if (!info.ok()) return info.status();
  if (flags.json) {
    PrintJson(*info);
  } else {
    PrintText("snapshot '" + info->name() + "' at position " + Grouped(info->position()) + ", " +
              HumanBytes(info->size_bytes()) + ", digest " + Hex(info->digest()) + "\n");
  }
  return absl::OkStatus();
}

absl::Status Rewind(const Connection& connection, const CliFlags& flags) {
  v1::RewindRequest request;
  request.set_stream_id(flags.stream);
  request.set_request_id(flags.request_id);
  if ((flags.at >= 0) == !flags.to.empty()) {
    return absl::InvalidArgumentError("rewind: give either --at POSITION or --to SNAPSHOT");
  }
  if (flags.at >= 0) {
    request.set_position(static_cast<uint64_t>(flags.at));
  } else {
    request.set_snapshot_name(flags.to);
  }
  return PrintInfo(Call(connection, *connection.inference, &Stub::Rewind, request), flags);
}

absl::Status Remove(const Connection& connection, const CliFlags& flags) {
  v1::DeleteRequest request;
  request.set_stream_id(flags.stream);
  auto reply = Call(connection, *connection.inference, &Stub::Delete, request);
  if (!reply.ok()) return reply.status();
  if (flags.json) {
    PrintJson(*reply);
  } else {
    PrintText("removed '" + flags.stream + "'\n");
  }
  return absl::OkStatus();
}

}  // namespace lola::cli
