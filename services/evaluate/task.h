// An evaluation task: texts that are streamed into a model, and questions about them that are asked
// on copies of the stream, so that asking changes nothing. The same task code serves every runner
// (runner.h): the engine in this process and an endpoint.
//
// A task is immutable after making and may be used by any thread. A script belongs to one thread;
// it writes its text piece by piece, so that a stream of any length costs little memory.
#ifndef LOLA_SERVICES_EVALUATE_TASK_H_
#define LOLA_SERVICES_EVALUATE_TASK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace lola::evaluate {

// How an answer is judged; score.h.
enum class Scoring {
  kMatchAll,      // share of references found anywhere in the answer, ignoring case (RULER)
  kFirstInteger,  // the first whole number of the answer is the reference (pass key)
  kBeginning,     // the answer begins with the reference, blanks aside (statements)
};
std::string_view Name(Scoring scoring);

// One thing the answer must hold.
struct Reference {
  std::string text;
  uint32_t mark = 0;  // Step::marks of the script: where the text told it
};

struct Question {
  std::string text;           // appended to a copy of the stream
  std::string answer_prefix;  // appended right after it: the beginning of the answer
  uint32_t max_tokens = 0;    // generated, greedily
  Scoring scoring = Scoring::kMatchAll;
  std::vector<Reference> references;
  std::vector<std::string> older;  // values of references[0] that were overwritten since
};

// Where in a piece of text something worth remembering ends.
struct Mark {
  uint32_t id = 0;    // ascending
  size_t offset = 0;  // bytes into Step::text
};

struct Step {
  enum class Kind { kText, kQuestion, kEnd };
  Kind kind = Kind::kEnd;
  std::string text;  // kText: the next piece of the stream, never empty
  std::vector<Mark> marks;
  Question question;  // kQuestion: about what was told so far
};

class Script {
 public:
  virtual ~Script() = default;
  virtual Step Next() = 0;  // kEnd for ever after the end
};

class Task {
 public:
  virtual ~Task() = default;
  virtual std::string name() const = 0;
  virtual uint64_t samples() const = 0;
  // Tokens of one stream, about: for progress and for sizing a softmax cache (never less than any
  // sample with question and answer needs).
  virtual uint64_t tokens_per_sample() const = 0;
  // The text of sample `index`; depends on the task's options and `index` alone.
  // REQUIRES: index < samples().
  virtual std::unique_ptr<Script> Open(uint64_t index) const = 0;
  // Not 0: the task measures what its text costs in bits instead of asking; places are reported in
  // multiples of this many tokens (the training length).
  virtual uint64_t measured_unit() const { return 0; }
  // What the task chose by itself, as (name, value): for the report ("haystack_lines", "120").
  virtual std::vector<std::pair<std::string, std::string>> Facts() const = 0;
};

// Bytes after which a script ends a piece at the next good place.
inline constexpr size_t kPieceBytes = 16 << 10;

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_TASK_H_
