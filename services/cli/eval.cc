// eval passkey: in this process, or through an endpoint.
#include <unistd.h>

#include <cstdio>
#include <string>

#include "nlohmann/json.hpp"
#include "services/cli/commands.h"
#include "services/cli/opening.h"
#include "services/cli/output.h"
#include "services/cli/stream_client.h"
#include "services/engine/model.h"
#include "services/engine/tokenizer.h"
#include "services/evaluate/passkey.h"

namespace lola::cli {
namespace {

// One line of the table.
struct Row {
  std::string mode;
  uint32_t questions = 0, right = 0;
  uint64_t tokens = 0, state_bytes = 0;
  double seconds = 0;
};

absl::StatusOr<evaluate::PasskeyText> LoadText(const CliFlags& flags) {
  return evaluate::PasskeyText::Load(flags.eval_text.empty() ? flags.model + "/passkey_text.json"
                                                             : flags.eval_text);
}

std::string Percent(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", value);
  return text;
}

void Print(const CliFlags& flags, const std::vector<Row>& rows) {
  nlohmann::json results = nlohmann::json::array();
  std::vector<std::vector<std::string>> table = {
      {"MODE", "RIGHT", "95 % INTERVAL", "QUESTIONS", "STATE", "TOKENS/S"}};
  for (const Row& row : rows) {
    const auto [low, high] = evaluate::WilsonInterval(row.right, row.questions);
    const double percent = 100.0 * row.right / row.questions;
    const double rate = static_cast<double>(row.tokens) / std::max(1e-9, row.seconds);
    results.push_back({{"mode", row.mode},
                       {"questions", row.questions},
                       {"right", row.right},
                       {"percent", percent},
                       {"low", low},
                       {"high", high},
                       {"state_bytes", row.state_bytes},
                       {"tokens", row.tokens},
                       {"seconds", row.seconds}});
    table.push_back({row.mode, Percent(percent), Percent(low) + " to " + Percent(high),
                     std::to_string(row.questions), HumanBytes(row.state_bytes),
                     Grouped(static_cast<uint64_t>(rate))});
  }
  if (flags.json) {
    PrintText(nlohmann::json{{"length", flags.length}, {"results", results}}.dump(2) + "\n");
  } else {
    PrintText("pass keys, " + Grouped(flags.length) + " tokens before the answer\n" + Table(table));
  }
}

absl::Status CheckFlags(const CliFlags& flags) {
  if (flags.questions == 0 || flags.needles == 0 || flags.modes.empty()) {
    return absl::InvalidArgumentError("--questions: " + std::to_string(flags.questions) +
                                      ", --needles: " + std::to_string(flags.needles) +
                                      ", --modes: all must be given and above 0");
  }
  return absl::OkStatus();
}

// How a mode is asked for over the wire.
absl::StatusOr<v1::OpenStream> OpenForMode(const CliFlags& flags, const std::string& mode,
                                           const std::string& id) {
  CliFlags own = flags;
  own.stream = id;
  if (flags.eval_profile != "model") own.profile = flags.eval_profile;
  if (mode == "base") {
    own.cache_pairs = 0;
  } else if (mode == "softmax") {
    own.mode = "softmax";
  } else if (mode != "lola") {
    return absl::InvalidArgumentError("--modes: '" + mode + "' is not lola, base or softmax");
  }
  return OpenFromFlags(own);
}

// Asks for one key on a fork of the document's stream.
absl::StatusOr<bool> AskFork(const Connection& connection, const CliFlags& flags,
                             const std::string& id, const evaluate::PasskeyText& text,
                             const evaluate::Needle& needle) {
  v1::ForkRequest fork;
  fork.set_stream_id(id);
  fork.set_new_stream_id(id + "-ask");
  auto made = Call(connection, *connection.inference, &v1::Inference::Stub::Fork, fork);
  if (!made.ok()) return made.status();
  v1::OpenStream open;
  open.set_stream_id(fork.new_stream_id());
  std::string answer;
  absl::Status status;
  {
    StreamClient client(&connection, open, flags.timeout, {});
    status = client.Open();
    if (status.ok()) status = client.Append(text.Question(needle.name)).status();
    v1::GenerateOp op;
    op.set_max_tokens(text.digits_length);
    if (status.ok()) {
      status =
          client.Generate(op, [&](const v1::TokenOutput& out) { answer += out.text(); }).status();
    }
  }
  v1::DeleteRequest remove;
  remove.set_stream_id(fork.new_stream_id());
  (void)Call(connection, *connection.inference, &v1::Inference::Stub::Delete, remove);
  if (!status.ok()) return status;
  return answer == needle.digits;
}

// Feeds one document and asks for all its keys.
absl::Status RunDocument(const Connection& connection, const CliFlags& flags,
                         const std::string& mode, const evaluate::PasskeyText& text,
                         const evaluate::Document& document, const std::string& id, Row* row) {
  auto open = OpenForMode(flags, mode, id);
  if (!open.ok()) return open.status();
  absl::Status status;
  {
    StreamClient client(&connection, *std::move(open), flags.timeout, {});
    status = client.Open();
    for (size_t at = 0; at < document.text.size() && status.ok(); at += 32 << 10) {
      status = client.Append(document.text.substr(at, 32 << 10)).status();
    }
    row->tokens += client.position();
    row->state_bytes = client.opened().info().state_bytes();
  }
  for (size_t i = 0; i < document.needles.size() && status.ok(); ++i) {
    auto right = AskFork(connection, flags, id, text, document.needles[i]);
    status = right.status();
    if (!right.ok()) break;
    ++row->questions;
    row->right += *right ? 1 : 0;
  }
  v1::DeleteRequest remove;
  remove.set_stream_id(id);
  (void)Call(connection, *connection.inference, &v1::Inference::Stub::Delete, remove);
  return status;
}

}  // namespace

absl::Status EvalPasskey(const CliFlags& flags) {
  if (absl::Status status = CheckFlags(flags); !status.ok()) return status;
  auto dtype = engine::ParseWeightDtype(flags.dtype);
  if (!dtype.ok()) return dtype.status();
  auto text = LoadText(flags);
  if (!text.ok()) return text.status();
  auto model = engine::Model::Load(flags.model, {.dtype = *dtype});
  if (!model.ok()) return model.status();
  auto tokenizer = engine::LoadTokenizer(flags.model);
  if (!tokenizer.ok()) return tokenizer.status();
  std::vector<Row> rows;
  for (const std::string& mode : flags.modes) {
    auto settings = evaluate::NamedSettings(**model, flags.eval_profile, mode);
    if (!settings.ok()) return settings.status();
    evaluate::PasskeyOptions options;
    options.settings = *settings;
    options.length = flags.length;
    options.questions = flags.questions;
    options.needles = flags.needles;
    options.threads = flags.threads;
    options.seed += flags.seed;
    ProgressLine line;
    auto result = evaluate::EvaluatePasskey(
        **model, **tokenizer, *text, options, [&](const evaluate::PasskeyProgress& progress) {
          line.Show(static_cast<double>(progress.tokens) /
                        static_cast<double>(std::max<uint64_t>(1, progress.tokens_total)),
                    mode + "  " + std::to_string(progress.right) + "/" +
                        std::to_string(progress.questions) + " right  " +
                        Grouped(static_cast<uint64_t>(progress.tokens_per_second())) +
                        " tokens/s  " + HumanSeconds(progress.seconds_left()) + " left");
        });
    line.Clear();
    if (!result.ok()) return result.status();
    rows.push_back({mode, result->questions, result->right, result->tokens, result->state_bytes,
                    result->seconds});
  }
  Print(flags, rows);
  return absl::OkStatus();
}

absl::Status EvalPasskeyRemote(const Connection& connection, const CliFlags& flags) {
  if (absl::Status status = CheckFlags(flags); !status.ok()) return status;
  auto text = LoadText(flags);
  if (!text.ok()) return text.status();
  constexpr uint64_t kMargin = 192;  // statements stay this far from the end: outside the window
  const uint64_t bytes =
      flags.length > text->question_bytes() + 1 ? flags.length - text->question_bytes() - 1 : 0;
  if (bytes < evaluate::PasskeyWriter::RoomFor(*text, flags.needles, kMargin)) {
    return absl::InvalidArgumentError("--length: " + std::to_string(flags.length) +
                                      " tokens have no room for " + std::to_string(flags.needles) +
                                      " needles");
  }
  std::vector<Row> rows;
  for (const std::string& mode : flags.modes) {
    evaluate::PasskeyWriter writer(*text, 1'000'003 + flags.seed);
    Row row;
    row.mode = mode;
    ProgressLine line;
    const auto start = std::chrono::steady_clock::now();
    for (uint32_t i = 0; row.questions < flags.questions; ++i) {
      std::vector<double> depths;
      for (uint32_t n = 0; n < flags.needles; ++n) depths.push_back(writer.Uniform());
      const auto document = writer.Write(bytes, depths, kMargin, 0);
      const std::string id =
          "eval-" + std::to_string(getpid()) + "-" + mode + "-" + std::to_string(i);
      absl::Status status = RunDocument(connection, flags, mode, *text, document, id, &row);
      if (!status.ok()) return status;
      line.Show(
          static_cast<double>(row.questions) / flags.questions,
          mode + "  " + std::to_string(row.right) + "/" + std::to_string(row.questions) + " right");
    }
    row.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    rows.push_back(row);
  }
  Print(flags, rows);
  return absl::OkStatus();
}

}  // namespace lola::cli
