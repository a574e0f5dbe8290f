#include "services/cli/interrupt.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <utility>

#include "services/cli/exit_codes.h"

namespace lola::cli {
namespace {

// The handler only writes to a pipe; a thread does the work.
std::atomic<int> pipe_in{-1};
std::atomic<int> presses{0};

void OnSignal(int) {
  if (presses.fetch_add(1) > 0) _exit(kInterrupted);
  const char byte = 1;
  if (const int fd = pipe_in.load(); fd >= 0) (void)!write(fd, &byte, 1);
}

}  // namespace

struct Interrupt::Impl {
  int fds[2] = {-1, -1};
  struct sigaction old {};
  std::function<void()> first;
  std::thread thread;
};

Interrupt::Interrupt(std::function<void()> first) : impl_(new Impl()) {
  impl_->first = std::move(first);
  if (pipe2(impl_->fds, O_CLOEXEC) != 0) return;
  presses = 0;
  pipe_in = impl_->fds[1];
  impl_->thread = std::thread([impl = impl_] {
    char byte = 0;
    if (read(impl->fds[0], &byte, 1) == 1 && byte == 1) impl->first();
  });
  struct sigaction action {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &impl_->old);
}

Interrupt::~Interrupt() {
  if (impl_->thread.joinable()) {
    sigaction(SIGINT, &impl_->old, nullptr);
    pipe_in = -1;
    const char end = 0;
    (void)!write(impl_->fds[1], &end, 1);
    impl_->thread.join();
    close(impl_->fds[0]);
    close(impl_->fds[1]);
  }
  delete impl_;
}

}  // namespace lola::cli
