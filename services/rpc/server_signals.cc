// Process-wide parts of the server runner: signals, malloc, the last words.
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "services/rpc/logging.h"
#include "services/rpc/server_runner.h"

namespace lola::rpc {
namespace {

sigset_t ShutdownSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

int WaitForSignal() {
  const sigset_t signals = ShutdownSignals();
  int number = 0;
  while (sigwait(&signals, &number) != 0) {
  }
  return number;
}

}  // namespace

void PrepareProcess() {
  const sigset_t signals = ShutdownSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  // Messages of megabytes would otherwise be mapped and unmapped one by one.
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  mallopt(M_TRIM_THRESHOLD, 128 << 20);
}

int RunUntilSignal(Server& server, const std::function<void(std::chrono::milliseconds)>& drain) {
  const int number = WaitForSignal();
  LogInfo("signal received, draining",
          {{"signal", number}, {"deadline_ms", server.options().drain_deadline.count()}});
  // Detached: it may wait for a second signal for ever, or end the process.
  std::thread([] {
    const int second = WaitForSignal();
    LogWarn("second signal, leaving at once", {{"signal", second}});
    _exit(128 + second);
  }).detach();
  server.SetServing(false);
  const auto end = std::chrono::steady_clock::now() + server.options().drain_deadline;
  if (drain) drain(server.options().drain_deadline);
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
  server.Shutdown(std::max(left, std::chrono::milliseconds(100)));
  LogInfo("stopped");
  return 0;
}

int ReportFatal(const std::string& program, const absl::Status& status) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

}  // namespace lola::rpc
