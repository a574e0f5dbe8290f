// bench: tokens per second and latency of an endpoint, bounded by its flags.
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"
#include "services/cli/commands.h"
#include "services/cli/opening.h"
#include "services/cli/output.h"
#include "services/cli/stream_client.h"

namespace lola::cli {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// What one stream saw.
struct Run {
  absl::Status status;
  uint64_t appended = 0, generated = 0;
  double first_token = 0;
  std::vector<double> gaps;  // between replies that carry tokens, per token
  Clock::time_point append_begin, append_end, generate_begin, generate_end;
};

std::string Prompt(uint32_t bytes, int index) {
  std::string text;
  for (uint32_t i = 0; text.size() < bytes; ++i) {
    text += "Line " + std::to_string((i * 7919u + static_cast<uint32_t>(index) * 31u) % 1000u) +
            " of the long text. ";
  }
  text.resize(bytes);
  return text;
}

void RunStream(const Connection& connection, const CliFlags& flags, int index, Run* run) {
  CliFlags own = flags;
  own.stream = "bench-" + std::to_string(getpid()) + "-" + std::to_string(index);
  auto open = OpenFromFlags(own);
  run->status = open.status();
  if (!run->status.ok()) return;
  StreamClient client(&connection, *std::move(open), flags.timeout, {});
  run->status = client.Open();
  if (!run->status.ok()) return;
  const std::string prompt = Prompt(flags.prompt, index);
  run->append_begin = Clock::now();
  for (size_t at = 0; at < prompt.size() && run->status.ok(); at += 32 << 10) {
    auto done = client.Append(prompt.substr(at, 32 << 10));
    run->status = done.status();
    if (done.ok()) run->appended += done->usage().appended_tokens();
  }
  if (!run->status.ok()) return;
  run->generate_begin = Clock::now();
  Clock::time_point last = run->generate_begin;
  v1::GenerateOp op;
  op.set_max_tokens(flags.tokens);
  op.set_ignore_eos(true);
  auto done = client.Generate(op, [&](const v1::TokenOutput& tokens) {
    const auto now = Clock::now();
    if (tokens.ids_size() == 0) return;
    if (run->generated == 0) {
      run->append_end = now;  // an append is worked off before the first token
      run->first_token = Seconds(now - run->generate_begin);
    } else {
      for (int i = 0; i < tokens.ids_size(); ++i) {
        run->gaps.push_back(Seconds(now - last) / tokens.ids_size());
      }
    }
    last = now;
    run->generated += static_cast<uint64_t>(tokens.ids_size());
  });
  run->generate_end = Clock::now();
  run->status = done.status();
}

double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<size_t>(share * static_cast<double>(values.size())))];
}

void RemoveStreams(const Connection& connection, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    v1::DeleteRequest remove;
    remove.set_stream_id("bench-" + std::to_string(getpid()) + "-" + std::to_string(i));
    (void)Call(connection, *connection.inference, &v1::Inference::Stub::Delete, remove);
  }
}

}  // namespace

absl::Status Bench(const Connection& connection, const CliFlags& flags) {
  if (flags.streams == 0 || flags.streams > 1024 || flags.tokens == 0) {
    return absl::InvalidArgumentError("--streams: " + std::to_string(flags.streams) +
                                      ", --tokens: " + std::to_string(flags.tokens) +
                                      "; streams must be in [1, 1024], tokens above 0");
  }
  std::vector<Run> runs(flags.streams);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < flags.streams; ++i) {
    threads.emplace_back([&, i] { RunStream(connection, flags, static_cast<int>(i), &runs[i]); });
  }
  for (std::thread& thread : threads) thread.join();
  RemoveStreams(connection, flags.streams);

  uint64_t appended = 0, generated = 0;
  std::vector<double> first, gaps;
  auto append_begin = Clock::time_point::max(), generate_begin = append_begin;
  auto append_end = Clock::time_point::min(), generate_end = append_end;
  for (const Run& run : runs) {
    if (!run.status.ok()) return run.status;
    appended += run.appended;
    generated += run.generated;
    first.push_back(run.first_token);
    gaps.insert(gaps.end(), run.gaps.begin(), run.gaps.end());
    append_begin = std::min(append_begin, run.append_begin);
    append_end = std::max(append_end, run.append_end);
    generate_begin = std::min(generate_begin, run.append_end);
    generate_end = std::max(generate_end, run.generate_end);
  }
  const double prefill = static_cast<double>(appended) / Seconds(append_end - append_begin);
  const double decode = static_cast<double>(generated) / Seconds(generate_end - generate_begin);
  if (flags.json) {
    PrintText(nlohmann::json{{"streams", flags.streams},
                             {"appended_tokens", appended},
                             {"generated_tokens", generated},
                             {"prefill_tokens_per_second", prefill},
                             {"decode_tokens_per_second", decode},
                             {"time_to_first_token_p50_seconds", Quantile(first, 0.5)},
                             {"time_to_first_token_p99_seconds", Quantile(first, 0.99)},
                             {"inter_token_p50_seconds", Quantile(gaps, 0.5)},
                             {"inter_token_p99_seconds", Quantile(gaps, 0.99)}}
                  .dump(2) +
              "\n");
    return absl::OkStatus();
  }
  PrintText(Table({{"streams", std::to_string(flags.streams)},
                   {"prefill", Grouped(appended) + " tokens, " +
                                   Grouped(static_cast<uint64_t>(prefill)) + " tokens/s"},
                   {"decode", Grouped(generated) + " tokens, " +
                                  Grouped(static_cast<uint64_t>(decode)) + " tokens/s"},
                   {"first token", "p50 " + HumanSeconds(Quantile(first, 0.5)) + ", p99 " +
                                       HumanSeconds(Quantile(first, 0.99))},
                   {"between tokens", "p50 " + HumanSeconds(Quantile(gaps, 0.5)) + ", p99 " +
                                          HumanSeconds(Quantile(gaps, 0.99))}}));
  return absl::OkStatus();
}

}  // namespace lola::cli
