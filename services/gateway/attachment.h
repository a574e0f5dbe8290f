// Keeps one client call served, whatever happens to workers: finds the stream's worker, opens
// Worker.Serve there, passes messages both ways through the Session, and attaches elsewhere when
// the worker dies or releases the stream.
//
//   routing -> attaching -> serving -> ended
//      ^  \________|___________|         (worker lost, stream released: back to routing,
//      |__ waiting (a pause)              or to `resting` while the client wants nothing)
//
// Thread-safe: one mutex per attachment; nothing blocks. Lock order: Attachment, then ClientSink.
#ifndef LOLA_SERVICES_GATEWAY_ATTACHMENT_H_
#define LOLA_SERVICES_GATEWAY_ATTACHMENT_H_

#include <grpcpp/alarm.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "lola/v1/common.pb.h"
#include "lola/v1/inference.pb.h"
#include "services/gateway/gateway_stats.h"
#include "services/gateway/session.h"
#include "services/gateway/shard_clients.h"
#include "services/gateway/worker_pool.h"

namespace lola::gateway {

class WorkerLink;

// What all attachments of a gateway share; outlives them.
struct AttachmentWorld {
  ShardClients* shards = nullptr;
  WorkerPool* workers = nullptr;
  GatewayCounts* counts = nullptr;
  uint64_t calls_max = 0;  // client calls open at the same time
  // How long one outage of a call may last before the client gets UNAVAILABLE.
  std::chrono::milliseconds outage_max{30000};
  std::chrono::milliseconds shard_deadline{2000};
  std::chrono::milliseconds pause_first{20};
  std::chrono::milliseconds pause_max{500};
};

// The client's side of a call. Calls come under the attachment's lock and must not call back.
class ClientSink {
 public:
  virtual ~ClientSink() = default;
  virtual void Send(v1::StreamReply reply) = 0;
  virtual size_t Waiting() const = 0;                // replies not yet written
  virtual void ReadNext() = 0;                       // one more request may be read
  virtual void End(const absl::Status& status) = 0;  // last call, exactly once
};

class Attachment : public std::enable_shared_from_this<Attachment> {
 public:
  // `sink` must stay alive until its End, and no longer.
  Attachment(const AttachmentWorld& world, ClientSink* sink, v1::StreamRequest open);
  ~Attachment();

  void Start();
  // REQUIRES: checked by rpc::CheckRequest; follows a ReadNext.
  void OnRequest(v1::StreamRequest request);
  void OnClientDone();                       // the client sends no more: end when all is done
  void OnReplyWritten();                     // the sink has room
  void Refuse(const absl::Status& status);   // a bad request: end the call
  void Drain();                              // end as soon as no operation runs
  void Abandon(const absl::Status& status);  // end now

  // A worker says of itself that it cannot serve. Who waits there might wait for ever: a model that
  // hangs answers nothing and ends nothing.
  void OnWorkerUnwell(const std::string& worker, const absl::Status& why);

  // From WorkerLink, any thread.
  void OnLinkReply(WorkerLink* link, v1::ServeReply reply);
  void OnLinkWritten(WorkerLink* link);
  void OnLinkClosing(WorkerLink* link);
  void OnLinkEnded(WorkerLink* link, const absl::Status& status);

 private:
  enum class Phase { kRouting, kWaiting, kAttaching, kServing, kResting, kEnded };

  // All below: mu_ held.
  void Route();
  void OnRecord(const absl::Status& status, const v1::StreamInfo& info);
  void ChooseFromRecord(const v1::StreamInfo& info);
  void AttachTo(const std::string& worker, bool takeover);
  void Retry(const absl::Status& why);  // after a pause, or end when the outage lasts too long
  void Lost(const absl::Status& status);
  void WorkerRefused(const absl::Status& status);
  void Pump();
  void AfterReply();
  void DropLink();
  void End(const absl::Status& status);
  std::string Tried() const;

  const AttachmentWorld world_;
  GatewayCounts& counts_;

  std::mutex mu_;  // guards everything below
  ClientSink* sink_;
  Session session_;
  Phase phase_ = Phase::kRouting;
  WorkerLink* link_ = nullptr;  // deletes itself after OnLinkEnded
  bool link_busy_ = false;      // a write to the worker is under way, or none may be started
  bool read_owed_ = false;      // the worker's next reply waits for room at the client
  bool request_owed_ = false;   // the client's next request waits for room in the session
  bool client_done_ = false;
  bool draining_ = false;
  bool released_ = false;  // the worker said so; its call is about to end
  std::string worker_;     // attached or attaching to
  std::string hint_;       // where to go next, from `released` or an owner detail
  bool takeover_ = false;  // of what is at hint_
  bool in_outage_ = false;
  std::chrono::steady_clock::time_point outage_since_;
  std::chrono::steady_clock::time_point attach_since_;
  std::chrono::milliseconds pause_{0};
  std::set<std::string> lost_;                // workers that failed in this outage
  std::map<std::string, std::string> tried_;  // place -> last problem, in this outage
  std::unique_ptr<grpc::Alarm> alarm_;
};

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_ATTACHMENT_H_
