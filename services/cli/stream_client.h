// A stream as a client sees it: append and generate, surviving a broken connection. After a break
// it attaches again with "after position p" and repeats the operation with its base position, so
// that nothing is lost or doubled (P4). Blocking; one thread, but Cancel may come from another.
#ifndef LOLA_SERVICES_CLI_STREAM_CLIENT_H_
#define LOLA_SERVICES_CLI_STREAM_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lola/v1/inference.pb.h"
#include "services/cli/connection.h"

namespace lola::cli {

class StreamClient {
 public:
  using OnTokens = std::function<void(const v1::TokenOutput&)>;
  using OnNotice = std::function<void(const std::string&)>;

  // `connection` outlives the client. `patience`: how long a break may last.
  StreamClient(const Connection* connection, v1::OpenStream open,
               std::chrono::milliseconds patience, OnNotice on_notice);
  ~StreamClient();

  absl::Status Open();
  const v1::OpenedStream& opened() const { return opened_; }
  uint64_t position() const { return position_; }  // after the last operation that is done
  uint64_t reattachments() const { return reattachments_; }

  absl::StatusOr<v1::OpDone> Append(const std::string& text);
  absl::StatusOr<v1::OpDone> AppendIds(const std::vector<int32_t>& ids);
  absl::StatusOr<v1::OpDone> Generate(const v1::GenerateOp& op, const OnTokens& on_tokens);
  // Ends the running generation at its next token, also when its call is broken just now. Any
  // thread.
  void Cancel();
  void Close();

 private:
  struct Link;

  absl::Status Attach();
  absl::StatusOr<v1::OpDone> RunOp(v1::StreamRequest request, const OnTokens& on_tokens);
  // Reads until the operation is done; a status when the call ended before.
  absl::StatusOr<v1::OpDone> ReadUntilDone(const std::string& request_id,
                                           const OnTokens& on_tokens);
  absl::Status TakeTokens(const v1::TokenOutput& tokens, const OnTokens& on_tokens);
  absl::Status Finish();
  void SendCancel();  // write_mu_ held, link_ not null

  const Connection& connection_;
  v1::OpenStream open_;
  const std::chrono::milliseconds patience_;
  const OnNotice on_notice_;
  std::mutex write_mu_;  // guards writes to link_, and the pointer against Cancel
  std::unique_ptr<Link> link_;
  bool cancelled_ = false;  // guarded by write_mu_; the operation at hand
  v1::OpenedStream opened_;
  bool was_open_ = false;
  uint64_t position_ = 0;
  uint64_t delivered_ = 0;
  uint64_t reattachments_ = 0;
  uint64_t next_id_ = 1;
};

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_STREAM_CLIENT_H_
