#include "services/gateway/worker_pool.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <algorithm>
#include <utility>

#include "services/rpc/logging.h"
#include "services/rpc/status_map.h"
#include "xxhash.h"

namespace lola::gateway {
namespace {

constexpr std::chrono::milliseconds kAnswerWithin{1000};
// While a worker does not answer: a restarted one should be of use soon.
constexpr std::chrono::milliseconds kPollAgain{200};

uint64_t Weight(std::string_view stream_id, const std::string& address) {
  return XXH64(stream_id.data(), stream_id.size(), XXH64(address.data(), address.size(), 0));
}

// A busy worker is late now and then. Its streams must not be taken from it for that.
constexpr int kLateMax = 2;

}  // namespace

WorkerPool::WorkerPool(std::vector<WorkerEndpoint> workers, std::chrono::milliseconds poll_every,
                       std::string hint)
    : poll_every_(poll_every), hint_(hint.empty() ? "" : " (" + hint + ")") {
  for (WorkerEndpoint& endpoint : workers) {
    Worker& worker = workers_[endpoint.address];
    worker.stub = v1::Worker::NewStub(endpoint.channel);
    worker.status.set_address(endpoint.address);
    worker.status.set_problem("not asked yet");
  }
}

WorkerPool::~WorkerPool() { Stop(); }

void WorkerPool::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void WorkerPool::Stop() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void WorkerPool::Loop() {
  while (true) {
    Poll();
    std::unique_lock lock(mu_);
    bool all_answer = true;
    for (const auto& [address, worker] : workers_) {
      all_answer = all_answer && worker.status.healthy();
    }
    const auto pause = all_answer ? poll_every_ : std::min(poll_every_, kPollAgain);
    if (wake_.wait_for(lock, pause, [this] { return stopping_; })) return;
  }
}

void WorkerPool::Poll() {
  // All are asked at the same time, so that a dead one does not delay news of the others.
  struct Question {
    grpc::ClientContext context;
    v1::DescribeWorkerRequest request;
    v1::WorkerInfo info;
    grpc::Status status;
  };
  std::vector<std::unique_ptr<Question>> questions;
  std::mutex mu;
  std::condition_variable answered;
  size_t waiting = workers_.size();
  for (auto& [address, worker] : workers_) {
    Question* question = questions.emplace_back(std::make_unique<Question>()).get();
    question->context.set_deadline(std::chrono::system_clock::now() + kAnswerWithin);
    worker.stub->async()->DescribeWorker(&question->context, &question->request, &question->info,
                                         [&, question](grpc::Status status) {
                                           std::lock_guard lock(mu);
                                           question->status = std::move(status);
                                           if (--waiting == 0) answered.notify_all();
                                         });
  }
  {
    std::unique_lock lock(mu);
    answered.wait(lock, [&] { return waiting == 0; });
  }
  size_t index = 0;
  for (auto& [address, worker] : workers_) {
    Question& question = *questions[index++];
    const bool well = question.status.ok();
    const std::string problem = well ? "" : question.status.error_message() + hint_;
    if (Note(worker, question.status, problem, std::move(question.info))) {
      rpc::LogInfo(well ? "worker answers" : "worker does not answer",
                   {{"worker", address}, {"problem", problem}});
      // Not for answers that are late: a busy worker goes on.
      const bool says_so = question.status.error_code() == grpc::StatusCode::UNAVAILABLE;
      if (says_so && on_unwell_) on_unwell_(address, rpc::FromGrpc(question.status));
    }
  }
  KeepModel();
}

// True when it is news.
bool WorkerPool::Note(Worker& worker, const grpc::Status& status, const std::string& problem,
                      v1::WorkerInfo info) {
  std::lock_guard lock(mu_);
  const bool late = status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
  worker.late = late ? worker.late + 1 : 0;
  if (late && worker.asked && worker.late < kLateMax) return false;
  const bool news = worker.status.healthy() != status.ok() || !worker.asked;
  worker.asked = true;
  worker.status.set_healthy(status.ok());
  worker.status.set_problem(problem);
  if (status.ok()) *worker.status.mutable_info() = std::move(info);
  return news;
}

// Asks for the model when it is not known, or other than what the workers serve by now.
void WorkerPool::KeepModel() {
  v1::Worker::Stub* stub = nullptr;
  {
    std::lock_guard lock(mu_);
    for (const auto& [address, worker] : workers_) {
      if (!worker.status.healthy()) continue;
      if (model_ && worker.status.info().model_fingerprint() == model_->fingerprint()) return;
      if (stub == nullptr) stub = worker.stub.get();
    }
  }
  if (stub == nullptr) return;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kAnswerWithin);
  v1::ModelInfo info;
  if (!stub->DescribeModel(&context, {}, &info).ok()) return;
  std::lock_guard lock(mu_);
  model_ = std::move(info);
}

v1::Worker::Stub* WorkerPool::stub(const std::string& address) const {
  const auto found = workers_.find(address);
  return found == workers_.end() ? nullptr : found->second.stub.get();
}

bool WorkerPool::Usable(const std::string& address) const {
  std::lock_guard lock(mu_);
  const auto found = workers_.find(address);
  return found != workers_.end() && found->second.status.healthy() &&
         !found->second.status.info().draining();
}

bool WorkerPool::WorthAsking(const std::string& address) const {
  {
    std::lock_guard lock(mu_);
    const auto found = workers_.find(address);
    if (found != workers_.end() && !found->second.asked) return true;
  }
  return Usable(address);
}

std::optional<std::string> WorkerPool::Pick(std::string_view stream_id,
                                            const std::set<std::string>& except) const {
  std::optional<std::string> best;
  uint64_t best_weight = 0;
  std::lock_guard lock(mu_);
  for (const auto& [address, worker] : workers_) {
    if (!worker.status.healthy() || worker.status.info().draining()) continue;
    if (except.count(address) != 0) continue;
    const uint64_t weight = Weight(stream_id, address);
    if (best.has_value() && weight <= best_weight) continue;
    best = address;
    best_weight = weight;
  }
  return best;
}

void WorkerPool::ReportFailure(const std::string& address, const absl::Status& status) {
  std::lock_guard lock(mu_);
  const auto found = workers_.find(address);
  if (found == workers_.end()) return;
  found->second.asked = true;
  found->second.status.set_healthy(false);
  found->second.status.set_problem(std::string(status.message()) + hint_);
}

std::vector<v1::WorkerStatus> WorkerPool::Statuses() const {
  std::vector<v1::WorkerStatus> statuses;
  std::lock_guard lock(mu_);
  for (const auto& [address, worker] : workers_) statuses.push_back(worker.status);
  return statuses;
}

std::optional<v1::ModelInfo> WorkerPool::Model() const {
  std::lock_guard lock(mu_);
  return model_;
}

uint32_t WorkerPool::Vocabulary() const {
  std::lock_guard lock(mu_);
  return model_.has_value() ? model_->vocab() : 0;
}

size_t WorkerPool::healthy() const {
  size_t count = 0;
  std::lock_guard lock(mu_);
  for (const auto& [address, worker] : workers_) count += worker.status.healthy() ? 1 : 0;
  return count;
}

}  // namespace lola::gateway
