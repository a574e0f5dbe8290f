// A client as an agent would write it, for end-to-end tests: keeps what it received by position,
// reattaches after a broken call, and fails loudly on a gap or a duplicate (promise P4).
// One thread at a time.
#ifndef LOLA_TESTS_SUPPORT_STREAM_CLIENT_H_
#define LOLA_TESTS_SUPPORT_STREAM_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lola/v1/inference.grpc.pb.h"

namespace lola::testing {

struct ReceivedToken {
  uint64_t position;
  int32_t id;
};

class StreamClient {
 public:
  struct Options {
    std::vector<std::string> gateways;  // host:port, tried in turn
    lola::v1::OpenStream open;
    std::chrono::seconds patience{60};  // for one operation, reattachments included
  };
  explicit StreamClient(Options options);
  ~StreamClient();

  // Each returns an empty string, or what went wrong.
  std::string Open();
  std::string Append(const std::string& text);
  // Appends the new model tokens to tokens(). `on_token` may kill things.
  std::string Generate(const lola::v1::GenerateOp& op,
                       const std::function<void(const ReceivedToken&)>& on_token = {});
  void Close();

  uint64_t position() const { return position_; }
  const std::vector<ReceivedToken>& tokens() const { return tokens_; }
  const std::string& text() const { return text_; }
  const std::vector<lola::v1::Notice>& notices() const { return notices_; }
  const lola::v1::OpenedStream& opened() const { return opened_; }
  int reattachments() const { return reattachments_; }

 private:
  struct Call;
  std::string Attach();
  std::string RunOp(const lola::v1::StreamRequest& request,
                    const std::function<void(const ReceivedToken&)>& on_token);
  std::string TakeTokens(const lola::v1::TokenOutput& output,
                         const std::function<void(const ReceivedToken&)>& on_token);

  const Options options_;
  size_t next_gateway_ = 0;
  std::unique_ptr<Call> call_;
  lola::v1::OpenedStream opened_;
  uint64_t position_ = 0;   // stream length as this client knows it
  uint64_t delivered_ = 0;  // every token below it was delivered or written by this client
  std::vector<ReceivedToken> tokens_;
  std::string text_;
  std::vector<lola::v1::Notice> notices_;
  int reattachments_ = 0;
};

}  // namespace lola::testing

#endif  // LOLA_TESTS_SUPPORT_STREAM_CLIENT_H_
