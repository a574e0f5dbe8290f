// What `lola chat` sends for a line: the line between a prefix and a suffix, or a turn as the chat
// template of the served model has it. Not thread-safe.
#ifndef LOLA_SERVICES_CLI_TURNS_H_
#define LOLA_SERVICES_CLI_TURNS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/cli_flags.h"
#include "services/engine/chat_template.h"
#include "services/engine/tokenizer.h"

namespace lola::cli {

// Turns of one chat by a template. The stream may be new, or end with a reply.
class Turns {
 public:
  // Reads tokenizer and template of --template. FAILED_PRECONDITION when it holds no template.
  static absl::StatusOr<Turns> Load(const CliFlags& flags);

  const engine::ChatTemplate& chat() const { return chat_; }
  // Ids of the next turn; `position`: the stream's length. REQUIRES: line is valid UTF-8.
  absl::StatusOr<std::vector<int32_t>> Next(const std::string& line, uint64_t position) const;
  // How the reply to it ended: one that the model did not end is ended by the next turn.
  void ReplyEnded(bool by_model) { ended_by_model_ = by_model; }

 private:
  Turns(std::unique_ptr<engine::Tokenizer> tokenizer, engine::ChatTemplate chat, std::string system)
      : tokenizer_(std::move(tokenizer)), chat_(std::move(chat)), system_(std::move(system)) {}

  std::unique_ptr<engine::Tokenizer> tokenizer_;
  engine::ChatTemplate chat_;
  std::string system_;
  // A stream met again was left after an ended reply, as far as anyone can tell.
  bool ended_by_model_ = true;
};

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_TURNS_H_
