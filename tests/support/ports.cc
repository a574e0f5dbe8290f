#include "tests/support/ports.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

namespace lola::testing {
namespace {

constexpr int kPorts = 8000;

// First of the kPorts ports below those the kernel hands out by itself.
int FirstPort() {
  int lowest = 0;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> lowest;
  return std::max(lowest - kPorts, 10000);
}

// Locks the port's file; the lock lasts as long as the program. The same files are used by
// deploy/quickstart/ports.py.
bool Lock(int port) {
  const std::string folder = "/tmp/lola-ports-" + std::to_string(getuid());
  mkdir(folder.c_str(), 0700);
  const std::string file = folder + "/" + std::to_string(port);
  const int handle = open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (handle < 0) {
    std::perror(file.c_str());
    std::abort();
  }
  if (flock(handle, LOCK_EX | LOCK_NB) == 0) return true;
  close(handle);
  return false;
}

// Whether a server could bind it now: somebody outside these tests may listen on it.
bool Bindable(int port) {
  const int handle = socket(AF_INET, SOCK_STREAM, 0);
  const int reuse = 1;  // a connection of an earlier run in TIME_WAIT does not matter
  setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool bound = bind(handle, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(handle);
  return bound;
}

}  // namespace

int ReservePort() {
  static const int first = FirstPort();
  static std::atomic<int> next = static_cast<int>(getpid()) * 16 % kPorts;
  for (int tries = 0; tries < kPorts; ++tries) {
    const int port = first + next.fetch_add(1) % kPorts;
    if (Lock(port) && Bindable(port)) return port;
  }
  std::fprintf(stderr, "no free port from %d to %d\n", first, first + kPorts - 1);
  std::abort();
}

}  // namespace lola::testing
