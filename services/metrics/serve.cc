#include "services/metrics/serve.h"

#include <signal.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "services/rpc/logging.h"

namespace lola::metrics {
namespace {

constexpr std::chrono::milliseconds kHealthInterval{100};

// Keeps the health service's answer equal to the process's own, and says changes in the log.
class HealthWatch {
 public:
  HealthWatch(rpc::Server* server, std::function<absl::Status()> health, bool ends)
      : server_(*server), health_(std::move(health)), ends_(ends) {
    server_.SetServing(true);
    if (health_) thread_ = std::thread([this] { Loop(); });
  }
  ~HealthWatch() { Stop(); }

  // The answer is not touched afterwards.
  void Stop() {
    {
      std::lock_guard lock(mu_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Loop() {
    bool well = true;
    std::unique_lock lock(mu_);
    while (!wake_.wait_for(lock, kHealthInterval, [this] { return stopping_; })) {
      const absl::Status health = health_();
      if (health.ok() == well) continue;
      well = health.ok();
      server_.SetServing(well);
      if (well) {
        rpc::LogInfo("serving again");
      } else {
        rpc::LogError("not serving", {{"why", health}});
        if (!ends_) continue;
        kill(getpid(), SIGTERM);
        return;  // once: a second signal would end it in the middle
      }
    }
  }

  rpc::Server& server_;
  const std::function<absl::Status()> health_;
  const bool ends_;
  std::mutex mu_;
  std::condition_variable wake_;
  bool stopping_ = false;  // guarded by mu_
  std::thread thread_;
};

}  // namespace

int Serve(const ServedProcess& process) {
  auto server = rpc::Server::Start(process.server, process.services);
  if (!server.ok()) return rpc::ReportFatal(process.program, server.status());
  if (process.listening) process.listening(**server);
  auto exporter = Exporter::Start(process.metrics_bind, process.program, {process.series},
                                  process.server.insecure);
  if (!exporter.ok()) return rpc::ReportFatal(process.program, exporter.status());
  HealthWatch watch(server->get(), process.health, process.ends_when_unwell);
  const int code = rpc::RunUntilSignal(**server, [&](std::chrono::milliseconds deadline) {
    watch.Stop();
    (*server)->SetServing(false);
    if (process.drain) process.drain(deadline);
  });
  return process.ends_when_unwell && !process.health().ok() ? 1 : code;
}

}  // namespace lola::metrics
