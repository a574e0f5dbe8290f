// Ctrl-C while something runs. One at a time.
#ifndef LOLA_SERVICES_CLI_INTERRUPT_H_
#define LOLA_SERVICES_CLI_INTERRUPT_H_

#include <functional>

namespace lola::cli {

// Ctrl-C calls `first` once, on a thread of its own; the next one ends the program with exit code
// 130. Lasts until destruction.
class Interrupt {
 public:
  explicit Interrupt(std::function<void()> first);
  ~Interrupt();

 private:
  struct Impl;
  Impl* impl_;
};

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_INTERRUPT_H_
