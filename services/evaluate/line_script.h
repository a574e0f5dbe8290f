// A prompt made of lines: a head, a haystack whose lines are made when they are needed, things
// inserted between them, a tail and one question. See task.h for threads.
#ifndef LOLA_SERVICES_EVALUATE_LINE_SCRIPT_H_
#define LOLA_SERVICES_EVALUATE_LINE_SCRIPT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "services/evaluate/task.h"

namespace lola::evaluate {

struct Insertion {
  uint64_t before_line = 0;
  std::string text;
  uint32_t mark = 0;
};

struct LinePrompt {
  std::string head;
  uint64_t lines = 0;
  std::function<std::string(uint64_t)> line;
  std::string separator;              // between lines and insertions
  std::vector<Insertion> insertions;  // ascending before_line <= lines
  // True: an empty line stands between insertions that touch, and before the first and after the
  // last line when an insertion is there (what joining pieces around needles gives in RULER).
  bool keep_empty = false;
  std::string tail;
  Question question;
};

// Pieces end where a tokenizer splits anyway: behind a line feed, or before a blank that follows
// something else, so that the tokens are those of the whole text.
class LineScript : public Script {
 public:
  explicit LineScript(LinePrompt prompt) : prompt_(std::move(prompt)) {}
  Step Next() override;

 private:
  bool AddItem();  // false when nothing is left
  bool MoreItems() const;

  LinePrompt prompt_;
  std::string pending_;  // written, not handed out
  std::vector<Mark> marks_;
  uint64_t next_line_ = 0;
  size_t next_insertion_ = 0;
  bool begun_ = false, ended_ = false, asked_ = false;
  bool line_since_ = false;  // a line, or an empty one, since the last insertion
};

// Collects text for a script and hands it out in pieces that end at good places.
// Takes at most everything but trailing blanks, which stay in `pending`.
Step TakePiece(std::string& pending, std::vector<Mark>& marks);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_LINE_SCRIPT_H_
