// lola eval: tasks of services/evaluate, in this process or through an endpoint.
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>

#include "services/cli/commands.h"
#include "services/cli/endpoint_runner.h"
#include "services/cli/eval_report.h"
#include "services/cli/interrupt.h"
#include "services/cli/output.h"
#include "services/engine/config.h"
#include "services/engine/model.h"
#include "services/engine/tokenizer.h"
#include "services/evaluate/local_runner.h"
#include "services/evaluate/results_file.h"
#include "services/evaluate/run_task.h"
#include "services/evaluate/tasks.h"

namespace lola::cli {
namespace {

// All that a run needs; the model is null behind an endpoint.
struct RunParts {
  std::unique_ptr<engine::Tokenizer> tokenizer;
  std::unique_ptr<engine::Model> model;
  std::unique_ptr<Connection> connection;
  std::unique_ptr<evaluate::Task> task;
  std::unique_ptr<evaluate::Runner> runner;
};

absl::StatusOr<std::unique_ptr<engine::Tokenizer>> OpenTokenizer(const EvalFlags& flags) {
  if (flags.tokenizer.empty()) return engine::MakeByteTokenizer();
  return engine::LoadTokenizer(flags.tokenizer);
}

absl::Status MakeTask(const EvalFlags& flags, RunParts& parts) {
  auto task = evaluate::MakeTask(flags.task, *parts.tokenizer);
  if (!task.ok()) return task.status();
  parts.task = *std::move(task);
  return absl::OkStatus();
}

absl::Status PrintSamples(EvalFlags flags) {
  RunParts parts;
  auto tokenizer = OpenTokenizer(flags);
  if (!tokenizer.ok()) return tokenizer.status();
  parts.tokenizer = *std::move(tokenizer);
  if (absl::Status made = MakeTask(flags, parts); !made.ok()) return made;
  for (uint64_t i = 0; i < std::min(flags.print_samples, parts.task->samples()); ++i) {
    PrintText(evaluate::SampleLine(*parts.task, i, flags.task, *parts.tokenizer) + "\n");
  }
  return absl::OkStatus();
}

absl::Status PrepareLocal(EvalFlags& flags, RunParts& parts) {
  const auto dtype = engine::ParseWeightDtype(flags.dtype);
  if (!dtype.ok()) return dtype.status();
  auto model = engine::Model::Load(flags.model, {.dtype = *dtype});
  if (!model.ok()) return model.status();
  parts.model = *std::move(model);
  auto settings = evaluate::Choose(*parts.model, flags.settings);
  if (!settings.ok()) return settings.status();
  if (flags.task.min_distance == 0) flags.task.min_distance = evaluate::OutsideWindow(*settings);
  if (flags.task.task == "perplexity") {
    flags.task.trained_length = parts.model->config().trained.length;
  }
  if (absl::Status made = MakeTask(flags, parts); !made.ok()) return made;
  if (settings->mode == memory::Mode::kSoftmax) {
    settings->window = static_cast<uint32_t>(parts.task->tokens_per_sample());
  }
  evaluate::LocalOptions options;
  options.name = flags.model;
  options.settings = *settings;
  options.bos = flags.task.bos;
  options.threads = flags.threads;
  options.streams_per_thread = flags.streams;
  auto runner = evaluate::LocalRunner::Create(*parts.model, *parts.tokenizer, options);
  if (!runner.ok()) return runner.status();
  parts.runner = *std::move(runner);
  return absl::OkStatus();
}

absl::Status PrepareEndpoint(const CliFlags& cli, EvalFlags& flags, RunParts& parts) {
  if (flags.task.task == "perplexity") {
    return absl::InvalidArgumentError(
        "--model: perplexity needs the model's probabilities, so it runs in this process only");
  }
  auto connection = Connect(cli.endpoint, cli.timeout, cli.tls);
  if (!connection.ok()) return connection.status();
  parts.connection = std::make_unique<Connection>(*std::move(connection));
  auto runner = EndpointRunner::Create(*parts.connection, *parts.tokenizer, flags);
  if (!runner.ok()) return runner.status();
  if (flags.task.min_distance == 0) flags.task.min_distance = (*runner)->outside_window();
  parts.runner = *std::move(runner);
  return MakeTask(flags, parts);
}

void ShowProgress(ProgressLine& line, const evaluate::RunProgress& now) {
  const double rate = now.seconds > 0 ? static_cast<double>(now.tokens) / now.seconds : 0.0;
  const double share = static_cast<double>(now.tokens) /
                       static_cast<double>(std::max<uint64_t>(1, now.tokens_total));
  const uint64_t left = now.tokens_total - std::min(now.tokens, now.tokens_total);
  line.Show(std::min(1.0, share),
            Grouped(now.samples) + "/" + Grouped(now.samples_total) + " samples  " +
                Grouped(static_cast<uint64_t>(rate)) + " tokens/s  " +
                (rate > 0 ? HumanSeconds(static_cast<double>(left) / rate) : "?") + " left" +
                (now.questions > 0 ? "  score " + Percent(now.score) : ""));
}

absl::Status RunAll(const CliFlags& cli, const EvalFlags& flags, RunParts& parts) {
  evaluate::RunHeader header;
  const auto arguments = evaluate::Arguments(flags.task);
  if (!arguments.ok()) return arguments.status();
  header.arguments = *arguments;
  header.facts = parts.task->Facts();
  header.setup = parts.runner->setup();
  auto results = evaluate::ResultsFile::Open(flags.out, header);
  if (!results.ok()) return results.status();
  std::atomic<bool> stop{false};
  absl::Status ran;
  {
    ProgressLine line;
    const Interrupt interrupt([&stop] { stop = true; });
    ran = evaluate::RunTask(*parts.task, *parts.runner, **results, &stop,
                            [&line](const evaluate::RunProgress& now) { ShowProgress(line, now); });
    line.Clear();
  }
  if (!ran.ok() && !stop) return ran;
  PrintText(cli.json ? (*results)->Text() : EvalReport(header, (*results)->results()));
  if (ran.ok()) return absl::OkStatus();
  const std::string count = std::to_string((*results)->results().size()) + " of " +
                            std::to_string(parts.task->samples()) + " samples done";
  return absl::CancelledError(flags.out.empty()
                                  ? "interrupted: " + count
                                  : "interrupted: " + count + " and kept in " + flags.out +
                                        "; the same command goes on from there");
}

}  // namespace

absl::Status Eval(const CliFlags& cli) {
  auto flags = ResolveEval(cli.eval);
  if (!flags.ok()) return flags.status();
  if (flags->print_samples > 0) return PrintSamples(*flags);
  RunParts parts;
  auto tokenizer = OpenTokenizer(*flags);
  if (!tokenizer.ok()) return tokenizer.status();
  parts.tokenizer = *std::move(tokenizer);
  const absl::Status ready =
      flags->model.empty() ? PrepareEndpoint(cli, *flags, parts) : PrepareLocal(*flags, parts);
  if (!ready.ok()) return ready;
  return RunAll(cli, *flags, parts);
}

}  // namespace lola::cli
