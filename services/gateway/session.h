// The bookkeeping of one client call, whichever worker serves it: which operations are not done,
// what was delivered, what to send again after a worker is lost. No gRPC, no threads, no clock
// but the one for the latency series. Not thread-safe: guarded by its Attachment.
//
// Invariants: operations are done in the order of `seq`; a token's position is never below
// `delivered`; the tokens of one generation are consecutive whatever happened to workers.
#ifndef LOLA_SERVICES_GATEWAY_SESSION_H_
#define LOLA_SERVICES_GATEWAY_SESSION_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "lola/v1/inference.pb.h"
#include "lola/v1/worker.pb.h"
#include "services/gateway/gateway_stats.h"

namespace lola::gateway {

class Session {
 public:
  // `open_request` holds the open message. `counts` outlives the session.
  Session(v1::StreamRequest open_request, GatewayCounts* counts);

  const v1::OpenStream& open() const { return open_.open(); }
  bool opened() const { return opened_; }            // some worker opened the stream for this call
  bool idle() const { return ops_.empty(); }         // no operation waits for its done
  bool CanTakeMore() const;                          // within the limits of limits.h
  uint64_t delivered() const { return delivered_; }  // position after the last token passed on

  // append, generate or cancel. REQUIRES: rpc::CheckRequest passed, CanTakeMore().
  void AddRequest(v1::StreamRequest request);

  // First message to a (new) worker. Whatever an earlier worker was sent counts as not sent.
  v1::ServeRequest Attach(bool takeover);
  // The next message for the worker, if there is one now. Only after the worker's `opened`.
  std::optional<v1::ServeRequest> NextToWorker();

  // Appends what the client must see to `replies`. INTERNAL on a gap or duplicate,
  // FAILED_PRECONDITION when the stream was rewound below what the client has.
  // REQUIRES: not `released`.
  absl::Status OnReply(v1::ServeReply reply, std::vector<v1::StreamReply>* replies);

 private:
  struct Op {
    uint64_t seq = 0;
    v1::StreamRequest request;
    size_t bytes = 0;
    bool sent = false;
    bool started = false;  // a token of it was passed on
    bool cancelled = false;
    bool cancel_sent = false;
    bool flushed = false;  // text without a token was passed on: the last of a cancelled one
    std::chrono::steady_clock::time_point since;
  };

  absl::Status OnOpened(v1::ServeReply reply, std::vector<v1::StreamReply>* replies);
  absl::Status OnTokens(v1::ServeReply reply, std::vector<v1::StreamReply>* replies);
  absl::Status OnDone(v1::ServeReply reply, std::vector<v1::StreamReply>* replies);
  Op* FindOp(uint64_t seq);
  Op* FirstGenerate();
  void ObserveTokens(Op& op, int tokens);
  absl::Status Rewound(uint64_t position) const;
  absl::Status Duplicate(uint64_t position);
  absl::Status Gap(uint64_t position);

  v1::StreamRequest open_;
  GatewayCounts* const counts_;
  std::deque<Op> ops_;
  size_t op_bytes_ = 0;
  uint64_t next_seq_ = 1;
  // Operations up to this one may be partly in the log: they are sent one at a time, each with the
  // position it starts at.
  uint64_t careful_until_ = 0;
  bool resuming_;               // the client sends an operation again that was cut off elsewhere
  bool opened_ = false;         // once, for the client
  bool worker_opened_ = false;  // by the present worker
  bool reattached_ = false;
  std::string worker_;
  uint64_t delivered_ = 0;
  uint64_t end_ = 0;         // position after the last operation that is done
  uint64_t replay_end_ = 0;  // below it the client asked for the log, by after_position
};

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_SESSION_H_
