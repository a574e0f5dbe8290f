// chat, feed, ask.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>

#include "nlohmann/json.hpp"
#include "services/cli/commands.h"
#include "services/cli/interrupt.h"
#include "services/cli/opening.h"
#include "services/cli/output.h"
#include "services/cli/stream_client.h"
#include "services/cli/turns.h"
#include "services/rpc/continuation_text.h"
#include "services/rpc/limits.h"
#include "services/rpc/wire_text.h"

namespace lola::cli {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

StreamClient::OnNotice NoteToStderr(const CliFlags& flags) {
  if (flags.json) return {};
  return [](const std::string& text) { std::fprintf(stderr, "\n[%s]\n", text.c_str()); };
}

const char* FinishName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_EOS:
      return "eos";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    case v1::FINISH_REASON_APPENDED:
      return "appended";
    default:
      return "unspecified";
  }
}

// Appends `text` piece by piece; pieces end at characters, not inside them.
absl::Status AppendAll(StreamClient& client, const std::string& text, size_t piece,
                       const std::function<void(size_t)>& on_done) {
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.size(), at + piece);
    while (end < text.size() && end > at + 1 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) {
      --end;
    }
    auto done = client.Append(text.substr(at, end - at));
    if (!done.ok()) return done.status();
    at = end;
    on_done(at);
  }
  return absl::OkStatus();
}

// Nothing where the stream goes on bit for bit.
void SayContinuation(const StreamClient& client) {
  const std::string how = rpc::ContinuationText(client.opened().restore());
  if (!how.empty()) std::fprintf(stderr, "[%s]\n", OneLine(how).c_str());
}

void SayWhere(const StreamClient& client) {
  std::fprintf(stderr, "[position %s, state %s, constant]\n", Grouped(client.position()).c_str(),
               HumanBytes(client.opened().info().state_bytes()).c_str());
  SayContinuation(client);
}

// Reads stdin or a file in pieces without holding it whole; calls `take` with whole characters.
absl::Status ReadPieces(std::istream& in, const std::string& name, size_t piece,
                        const std::function<absl::Status(const std::string&)>& take) {
  std::string rest;
  uint64_t offset = 0;
  std::string buffer(piece, '\0');
  while (in) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    rest.append(buffer.data(), static_cast<size_t>(in.gcount()));
    size_t whole = rest.size();
    if (const auto bad = rpc::InvalidUtf8Offset(rest)) {
      // A character cut by the end of the piece waits for its rest.
      if (in && rest.size() - *bad < 4) {
        whole = *bad;
      } else {
        return absl::InvalidArgumentError("file '" + name + "': invalid UTF-8 at byte " +
                                          std::to_string(offset + *bad));
      }
    }
    if (whole == 0) continue;
    if (absl::Status status = take(rest.substr(0, whole)); !status.ok()) return status;
    offset += whole;
    rest.erase(0, whole);
  }
  return absl::OkStatus();
}

// One line of a chat: as it is, or as a turn of the template.
absl::Status SendLine(StreamClient& client, const CliFlags& flags,
                      const std::optional<Turns>& turns, const std::string& line) {
  if (!turns) {
    return AppendAll(client, flags.prefix + line + flags.suffix, flags.piece.value, [](size_t) {});
  }
  auto ids = turns->Next(line, client.position());
  return ids.ok() ? client.AppendIds(*ids).status() : ids.status();
}

}  // namespace

absl::Status Chat(const Connection& connection, const CliFlags& flags) {
  std::optional<Turns> turns;
  if (!flags.template_dir.empty()) {
    auto loaded = Turns::Load(flags);
    if (!loaded.ok()) return loaded.status();
    turns = *std::move(loaded);
  } else if (!flags.system.empty()) {
    return absl::InvalidArgumentError("--system: needs --template");
  }
  auto open = OpenFromFlags(flags);
  if (!open.ok()) return open.status();
  StreamClient client(&connection, *std::move(open), flags.timeout, NoteToStderr(flags));
  if (absl::Status status = client.Open(); !status.ok()) return status;
  SayWhere(client);
  const bool terminal = isatty(STDIN_FILENO) == 1;
  std::string line;
  while (true) {
    if (terminal) std::fprintf(stderr, "> ");
    if (!std::getline(std::cin, line) || line == "/quit") break;
    if (line == "/where") {
      SayWhere(client);
      continue;
    }
    if (const auto bad = rpc::InvalidUtf8Offset(line)) {
      std::fprintf(stderr, "[invalid UTF-8 at byte %zu, not sent]\n", *bad);
      continue;
    }
    absl::Status status = SendLine(client, flags, turns, line);
    if (!status.ok()) return status;
    Interrupt interrupt([&] { client.Cancel(); });
    auto done = client.Generate(GenerateFromFlags(flags),
                                [](const v1::TokenOutput& tokens) { PrintText(tokens.text()); });
    if (!done.ok()) return done.status();
    if (turns) turns->ReplyEnded(done->finish_reason() == v1::FINISH_REASON_EOS);
    PrintText("\n");
  }
  client.Close();
  return absl::OkStatus();
}

absl::Status Feed(const Connection& connection, const CliFlags& flags) {
  auto open = OpenFromFlags(flags);
  if (!open.ok()) return open.status();
  if (flags.piece.value < 16 || flags.piece.value > rpc::kAppendTextBytesMax) {
    return absl::InvalidArgumentError("--piece: " + std::to_string(flags.piece.value) +
                                      " is outside [16, " +
                                      std::to_string(rpc::kAppendTextBytesMax) + "]");
  }
  std::ifstream file;
  double size = 0;
  if (flags.file != "-") {
    file.open(flags.file, std::ios::binary | std::ios::ate);
    if (!file) return absl::NotFoundError("file '" + flags.file + "' cannot be read");
    size = static_cast<double>(file.tellg());
    file.seekg(0);
  }
  StreamClient client(&connection, *std::move(open), flags.timeout, NoteToStderr(flags));
  if (absl::Status status = client.Open(); !status.ok()) return status;
  const uint64_t begin = client.position();
  uint64_t bytes = 0;
  const auto start = Clock::now();
  ProgressLine progress;
  const auto tokens = [&] { return client.position() - begin; };
  absl::Status status = ReadPieces(
      flags.file == "-" ? std::cin : file, flags.file, flags.piece.value,
      [&](const std::string& piece) {
        auto done = client.Append(piece);
        bytes += piece.size();
        const double rate = static_cast<double>(tokens()) / std::max(1e-9, SecondsSince(start));
        progress.Show(size > 0 ? static_cast<double>(bytes) / size : -1,
                      Grouped(tokens()) + " tokens  " + Grouped(static_cast<uint64_t>(rate)) +
                          " tokens/s  position " + Grouped(client.position()) + "  state " +
                          HumanBytes(client.opened().info().state_bytes()));
        return done.status();
      });
  progress.Clear();
  if (!status.ok()) return status;
  client.Close();
  const double seconds = SecondsSince(start);
  const double rate = static_cast<double>(tokens()) / std::max(1e-9, seconds);
  if (flags.json) {
    PrintText(nlohmann::json{{"stream_id", flags.stream},
                             {"bytes", bytes},
                             {"tokens", tokens()},
                             {"position", client.position()},
                             {"seconds", seconds},
                             {"tokens_per_second", rate},
                             {"state_bytes", client.opened().info().state_bytes()},
                             {"reattachments", client.reattachments()}}
                  .dump(2) +
              "\n");
    return absl::OkStatus();
  }
  PrintText(Grouped(tokens()) + " tokens in " + HumanSeconds(seconds) + " (" +
            Grouped(static_cast<uint64_t>(rate)) + " tokens/s), position " +
            Grouped(client.position()) + ", state " +
            HumanBytes(client.opened().info().state_bytes()) + "\n");
  return absl::OkStatus();
}

absl::Status Ask(const Connection& connection, const CliFlags& asked) {
  CliFlags flags = asked;
  std::string text = flags.text;
  if (text == "-") {
    auto read = ReadText("-");
    if (!read.ok()) return read.status();
    text = *std::move(read);
  } else if (const auto bad = rpc::InvalidUtf8Offset(text)) {
    return absl::InvalidArgumentError("text: invalid UTF-8 at byte " + std::to_string(*bad));
  }
  if (flags.aside) {
    v1::ForkRequest fork;
    fork.set_stream_id(flags.stream);
    flags.stream = flags.stream.substr(0, 96) + ":aside-" + std::to_string(getpid());
    fork.set_new_stream_id(flags.stream);
    auto made = Call(connection, *connection.inference, &v1::Inference::Stub::Fork, fork);
    if (!made.ok()) return made.status();
    flags.no_create = true;
  }
  auto open = OpenFromFlags(flags);
  if (!open.ok()) return open.status();
  std::string answer;
  absl::StatusOr<v1::OpDone> done = v1::OpDone();
  {
    StreamClient client(&connection, *std::move(open), flags.timeout, NoteToStderr(flags));
    absl::Status status = client.Open();
    if (status.ok()) status = AppendAll(client, text, flags.piece.value, [](size_t) {});
    Interrupt interrupt([&] { client.Cancel(); });
    if (!status.ok()) {
      done = status;
    } else {
      done = client.Generate(GenerateFromFlags(flags), [&](const v1::TokenOutput& tokens) {
        answer += tokens.text();
        if (!flags.json) PrintText(tokens.text());
      });
    }
  }
  if (flags.aside) {
    v1::DeleteRequest remove;
    remove.set_stream_id(flags.stream);
    (void)Call(connection, *connection.inference, &v1::Inference::Stub::Delete, remove);
  }
  if (!done.ok()) return done.status();
  if (!flags.json) {
    PrintText("\n");
    return absl::OkStatus();
  }
  PrintText(nlohmann::json{{"stream_id", asked.stream},
                           {"text", answer},
                           {"finish_reason", FinishName(done->finish_reason())},
                           {"generated_tokens", done->usage().generated_tokens()},
                           {"position", done->position()}}
                .dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
            "\n");
  return absl::OkStatus();
}

}  // namespace lola::cli
