// The results of a run as JSON, in a file that a later run with the same arguments goes on with.
// Beside it stands FILE.part, a journal with one line for every sample finished since the file was
// written last: a process that is killed loses no finished sample. The journal is locked while a
// run has the file. One thread at a time.
#ifndef LOLA_SERVICES_EVALUATE_RESULTS_FILE_H_
#define LOLA_SERVICES_EVALUATE_RESULTS_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/evaluate/runner.h"

namespace lola::evaluate {

using NamedValues = std::vector<std::pair<std::string, std::string>>;

struct RunHeader {
  NamedValues arguments;  // Arguments(): must be equal to go on
  NamedValues facts;      // Task::Facts()
  RunSetup setup;         // fingerprint, dtype and settings must be equal to go on
};

class ResultsFile {
 public:
  // Reads the file when it is there; an empty path keeps everything in memory.
  // FAILED_PRECONDITION naming the first argument that differs, with both values, or when another
  // run has the file; INVALID_ARGUMENT for a file that is no results file.
  static absl::StatusOr<std::unique_ptr<ResultsFile>> Open(const std::string& path,
                                                           RunHeader header);
  ~ResultsFile();
  ResultsFile(const ResultsFile&) = delete;

  const std::vector<SampleResult>& results() const { return results_; }  // ascending index
  bool Has(uint64_t index) const;
  // Keeps the sample and puts it into the journal. UNAVAILABLE naming the file.
  absl::Status Add(SampleResult result);
  // Adds time and tokens of this run to what earlier ones took.
  void AddEffort(uint64_t tokens, double seconds);
  // Replaces the file whole: never half a file. OK without a path.
  absl::Status Save();
  // The JSON and a line break; one line unless indented.
  std::string Text(int indent = -1) const;

 private:
  ResultsFile(std::string path, RunHeader header)
      : path_(std::move(path)),
        header_(std::move(header)),
        classes_(header_.setup.instruction_class) {}
  absl::Status OpenJournal();
  absl::Status Read();
  absl::Status ReadJournal();
  void Insert(SampleResult result);
  // Samples of the file were computed by these instruction classes.
  void AddClasses(const std::string& earlier);
  std::string JournalPath() const;

  const std::string path_;
  const RunHeader header_;
  std::string classes_;  // of all machines that computed the samples, "avx2, avx512"
  std::vector<SampleResult> results_;
  uint64_t tokens_ = 0;
  double seconds_ = 0.0;
  int journal_ = -1;  // open file; none without a path
  bool journal_is_empty_ = false;
};

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_RESULTS_FILE_H_
