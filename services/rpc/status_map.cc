#include "services/rpc/status_map.h"

#include <grpcpp/support/status.h>

#include <optional>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace lola::rpc {
namespace {

// The prefix keeps our details apart from payloads of others; the store sets some of them itself.
constexpr char kPrefix[] = "lola.v1/";

bool ValidKey(std::string_view key) {
  for (const char c : key) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.')) return false;
  }
  return !key.empty();
}

std::string TypeUrl(std::string_view key) { return kPrefix + std::string(key); }

}  // namespace

void SetDetail(absl::Status& status, std::string_view key, std::string_view value) {
  if (!ValidKey(key) || value.find('\n') != std::string_view::npos) return;
  status.SetPayload(TypeUrl(key), absl::Cord(std::string(value)));
}

std::optional<std::string> GetDetail(const absl::Status& status, std::string_view key) {
  const auto payload = status.GetPayload(TypeUrl(key));
  if (!payload.has_value()) return std::nullopt;
  return std::string(*payload);
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status result(status.code(), std::string(context) + ": " + std::string(status.message()));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& value) { result.SetPayload(url, value); });
  return result;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string details;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& value) {
    const std::string name(url);
    if (name.rfind(kPrefix, 0) != 0) return;
    details += name.substr(sizeof(kPrefix) - 1) + "=" + std::string(value) + "\n";
  });
  // The canonical codes have the same numbers in both libraries (checked by the test).
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      details);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int code = status.error_code();
  if (code < 1 || code > 16) {
    return absl::UnknownError("status code " + std::to_string(code) + ": " +
                              status.error_message());
  }
  absl::Status result(static_cast<absl::StatusCode>(code), status.error_message());
  const std::string details = status.error_details();
  for (size_t begin = 0; begin < details.size();) {
    size_t end = details.find('\n', begin);
    if (end == std::string::npos) end = details.size();
    const std::string_view line(details.data() + begin, end - begin);
    const size_t equals = line.find('=');
    if (equals != std::string_view::npos) {
      SetDetail(result, line.substr(0, equals), line.substr(equals + 1));
    }
    begin = end + 1;
  }
  return result;
}

}  // namespace lola::rpc
