// What tests of evaluation tasks share.
#ifndef LOLA_TESTS_SERVICES_EVALUATE_TASK_TESTING_H_
#define LOLA_TESTS_SERVICES_EVALUATE_TASK_TESTING_H_

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/check.h"
#include "services/engine/tokenizer.h"
#include "services/evaluate/task.h"
#include "services/evaluate/tasks.h"

namespace lola::evaluate {

// A whole sample read from its script.
struct Whole {
  std::string text;  // the stream
  std::vector<Question> questions;
  std::vector<size_t> asked_at;  // bytes of the stream before question i
  std::vector<size_t> marks;     // by id: byte where it ends
  std::vector<std::string> pieces;

  std::string prompt() const {  // of the first question
    return text + questions.at(0).text + questions.at(0).answer_prefix;
  }
  std::string answer(size_t i) const { return questions.at(0).references.at(i).text; }
};

inline Whole ReadWhole(const Task& task, uint64_t index) {
  Whole whole;
  const auto script = task.Open(index);
  for (Step step = script->Next(); step.kind != Step::Kind::kEnd; step = script->Next()) {
    if (step.kind == Step::Kind::kText) {
      EXPECT_FALSE(step.text.empty());
      for (const Mark& mark : step.marks) {
        whole.marks.resize(std::max<size_t>(whole.marks.size(), mark.id + 1));
        whole.marks[mark.id] = whole.text.size() + mark.offset;
      }
      whole.text += step.text;
      whole.pieces.push_back(step.text);
    } else {
      whole.questions.push_back(step.question);
      whole.asked_at.push_back(whole.text.size());
    }
  }
  EXPECT_EQ(script->Next().kind, Step::Kind::kEnd);
  return whole;
}

// A task over single bytes; ends the test program when it cannot be made.
inline std::unique_ptr<Task> Make(const TaskOptions& options) {
  static const auto& tokenizer = *engine::MakeByteTokenizer().release();
  auto task = MakeTask(options, tokenizer);
  LOLA_CHECK(task.ok()) << task.status();
  return *std::move(task);
}

// The message MakeTask refuses the options with; "ok" when it does not.
inline std::string Refusal(const TaskOptions& options) {
  static const auto& tokenizer = *engine::MakeByteTokenizer().release();
  const auto task = MakeTask(options, tokenizer);
  return task.ok() ? "ok" : std::string(task.status().message());
}

inline std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

}  // namespace lola::evaluate

#endif  // LOLA_TESTS_SERVICES_EVALUATE_TASK_TESTING_H_
