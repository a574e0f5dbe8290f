// Runs the script on the store in argv[1] and writes one byte to the file argv[2] after each
// operation that was acknowledged. Failpoints come from the environment. Exit code: 0 when all is
// done, 4 when an operation failed. With a third argument, the names of all places reached are
// written to that file at the end.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "memory/env/failpoint.h"
#include "tests/e2e/crash/script.h"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const int acknowledged = open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0644);
  auto store = lola::store::StreamStore::Open(lola::crash::ScriptOptions(argv[1]));
  if (acknowledged < 0 || !store.ok()) return 3;
  lola::crash::Model model;
  for (const auto& operation : lola::crash::Script()) {
    const absl::Status status = operation.run(**store, model);
    if (!status.ok()) {
      std::fprintf(stderr, "%s: %s\n", operation.name.c_str(), status.ToString().c_str());
      _exit(4);  // as it is: nothing is tidied up
    }
    operation.apply(model);
    if (write(acknowledged, "+", 1) != 1) return 3;
  }
  if (argc > 3) {
    std::ofstream names(argv[3]);
    for (const std::string& name : lola::memory::ReachedFailpoints()) names << name << "\n";
  }
  return 0;
}
