// Child processes for end-to-end tests: started by argv, ended by pid, output kept in a file.
// One owner thread per object.
#ifndef LOLA_TESTS_SUPPORT_PROCESS_H_
#define LOLA_TESTS_SUPPORT_PROCESS_H_

#include <sys/types.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace lola::testing {

class ChildProcess {
 public:
  ChildProcess() = default;
  // Starts argv[0] with standard output and error appended to `log_path`. `extra_env` is added to
  // the parent's environment. Aborts the test program when the program cannot be started.
  ChildProcess(const std::vector<std::string>& argv, const std::string& log_path,
               const std::map<std::string, std::string>& extra_env = {});
  ~ChildProcess();  // SIGKILL and reap when still running
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;

  pid_t pid() const { return pid_; }
  bool running();
  void Signal(int signal_number);
  // SIGKILL and reap.
  void Kill();
  // Exit status as waitpid gives it; nothing when still running at the deadline.
  std::optional<int> Wait(std::chrono::milliseconds timeout);

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
};

// A fresh folder under the system's temporary folder, removed with the object.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Resident set size of a process, bytes; 0 when it is gone.
size_t ResidentBytes(pid_t pid);

}  // namespace lola::testing

#endif  // LOLA_TESTS_SUPPORT_PROCESS_H_
