#include "services/evaluate/line_script.h"

#include <utility>

namespace lola::evaluate {

Step TakePiece(std::string& pending, std::vector<Mark>& marks) {
  const size_t last = pending.find_last_not_of(' ');
  const size_t end = last == std::string::npos ? 0 : last + 1;
  Step step;
  step.kind = Step::Kind::kText;
  step.text = pending.substr(0, end);
  pending.erase(0, end);
  size_t kept = 0;
  for (Mark& mark : marks) {
    if (mark.offset <= end) {
      step.marks.push_back(mark);
    } else {
      marks[kept++] = {mark.id, mark.offset - end};
    }
  }
  marks.resize(kept);
  return step;
}

bool LineScript::MoreItems() const {
  return next_line_ < prompt_.lines || next_insertion_ < prompt_.insertions.size() ||
         (prompt_.keep_empty && !line_since_);
}

bool LineScript::AddItem() {
  if (!MoreItems()) return false;
  const bool insert = next_insertion_ < prompt_.insertions.size() &&
                      prompt_.insertions[next_insertion_].before_line <= next_line_;
  if (insert && (line_since_ || !prompt_.keep_empty)) {
    const Insertion& insertion = prompt_.insertions[next_insertion_++];
    pending_ += insertion.text;
    marks_.push_back({insertion.mark, pending_.size()});
    line_since_ = false;
  } else {
    if (!insert && next_line_ < prompt_.lines) pending_ += prompt_.line(next_line_++);
    line_since_ = true;
  }
  if (MoreItems()) pending_ += prompt_.separator;
  return true;
}

Step LineScript::Next() {
  if (!begun_) pending_ = prompt_.head;
  begun_ = true;
  while (!ended_ && pending_.size() < kPieceBytes) {
    if (AddItem()) continue;
    pending_ += prompt_.tail;
    ended_ = true;
  }
  if (pending_.find_last_not_of(' ') != std::string::npos) return TakePiece(pending_, marks_);
  Step step;
  if (asked_) return step;
  asked_ = true;
  step.kind = Step::Kind::kQuestion;
  step.question = std::move(prompt_.question);
  step.question.text.insert(0, pending_);
  pending_.clear();
  return step;
}

}  // namespace lola::evaluate
