// Runs over a model that knows nothing: what is kept, what goes on, what is refused.
#include "services/evaluate/run_task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "memory/stream/arena.h"
#include "memory/stream/stream_state.h"
#include "services/engine/model.h"
#include "services/evaluate/local_runner.h"
#include "services/evaluate/results_file.h"
#include "services/evaluate/settings_choice.h"
#include "services/evaluate/summary.h"
#include "tests/services/evaluate/task_testing.h"

namespace lola::evaluate {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

struct World {
  std::unique_ptr<engine::Model> model =
      *engine::Model::Random(*engine::NamedGeometry("tiny"), 5, {});
  std::unique_ptr<engine::Tokenizer> tokenizer = engine::MakeByteTokenizer();

  memory::LolaSettings Settings() const {
    memory::LolaSettings settings = model->default_settings();
    settings.window = settings.chunk = 32;
    settings.cache_pairs = 32;
    return settings;
  }
  std::unique_ptr<LocalRunner> Runner(int threads, uint32_t streams) const {
    LocalOptions options;
    options.settings = Settings();
    options.threads = threads;
    options.streams_per_thread = streams;
    auto runner = LocalRunner::Create(*model, *tokenizer, options);
    LOLA_CHECK(runner.ok()) << runner.status();
    return *std::move(runner);
  }
};

TaskOptions Options(const std::string& task, uint64_t length, uint64_t samples) {
  TaskOptions options;
  options.task = task;
  options.length = length;
  options.samples = samples;
  options.text_kind = std::string(LOLA_SOURCE_DIR) + "/models/passkey-1m/passkey_text.json";
  return options;
}

RunHeader Header(const TaskOptions& options, const Task& task, const Runner& runner) {
  return {*Arguments(options), task.Facts(), runner.setup()};
}

// The whole file but for time and build.
Json Comparable(const std::string& text) {
  Json json = Json::parse(text);
  json.erase("run");
  return json;
}

std::string Fresh(const std::string& name) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::remove(path.c_str());
  return path;
}

TEST(RunTask, AnswersDoNotDependOnThreadsOrStreams) {
  const World world;
  for (const std::string name : {"niah_multikey_2", "variable_tracking", "stream_recall"}) {
    TaskOptions options = Options(name, 4096, 4);
    options.max_tokens = 12;
    options.update_share = 0.5;
    const auto task = Make(options);
    Json first;
    for (const auto& [threads, streams] : {std::pair(1, 1u), std::pair(2, 3u)}) {
      const auto runner = world.Runner(threads, streams);
      auto results = ResultsFile::Open("", Header(options, *task, *runner));
      ASSERT_TRUE(results.ok());
      ASSERT_TRUE(RunTask(*task, *runner, **results, nullptr, {}).ok());
      EXPECT_EQ((*results)->results().size(), 4u);
      if (threads == 1) first = Comparable((*results)->Text());
      EXPECT_EQ(Comparable((*results)->Text()), first);
    }
  }
}

TEST(RunTask, InterruptedAndResumedEqualsUninterrupted) {
  const World world;
  TaskOptions options = Options("niah_single_1", 1400, 9);
  options.max_tokens = 8;
  const auto task = Make(options);
  const auto runner = world.Runner(1, 2);
  const RunHeader header = Header(options, *task, *runner);
  const auto whole = *ResultsFile::Open("", header);
  ASSERT_TRUE(RunTask(*task, *runner, *whole, nullptr, {}).ok());

  const std::string path = Fresh("resumed.json");
  {
    const auto part = *ResultsFile::Open(path, header);
    std::atomic<bool> stop{false};
    const absl::Status status = RunTask(*task, *runner, *part, &stop, [&](const RunProgress& now) {
      if (now.samples >= 3) stop = true;
    });
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
    EXPECT_GE(part->results().size(), 3u);
    EXPECT_LT(part->results().size(), 9u);
  }
  const auto rest = *ResultsFile::Open(path, header);
  const size_t kept = rest->results().size();
  EXPECT_GE(kept, 3u);
  uint64_t tokens = 0;
  ASSERT_TRUE(RunTask(*task, *runner, *rest, nullptr, [&](const RunProgress& now) {
                tokens = now.tokens;
              }).ok());
  EXPECT_LE(tokens, (9 - kept) * 1600) << "finished samples are not run again";
  EXPECT_EQ(Comparable(rest->Text()), Comparable(whole->Text()));
  std::string saved;
  {
    std::ifstream file(path);
    saved.assign(std::istreambuf_iterator<char>(file), {});
  }
  EXPECT_EQ(Comparable(saved), Comparable(whole->Text()));
}

std::string Read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// What a process leaves that is killed: the file as it was written last, and the journal.
TEST(ResultsFile, AKilledRunLosesOnlyTheSampleItWasWriting) {
  const World world;
  TaskOptions options = Options("niah_single_1", 1400, 3);
  options.max_tokens = 4;
  const auto task = Make(options);
  const auto runner = world.Runner(1, 1);
  const RunHeader header = Header(options, *task, *runner);
  const auto whole = *ResultsFile::Open("", header);
  ASSERT_TRUE(RunTask(*task, *runner, *whole, nullptr, {}).ok());
  const std::string text = whole->Text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << "one line";

  const std::string path = Fresh("killed.json"), journal = Fresh("killed.json.part");
  std::string file, lines;
  {
    const auto part = *ResultsFile::Open(path, header);
    ASSERT_TRUE(part->Add(whole->results()[2]).ok());
    ASSERT_TRUE(part->Add(whole->results()[0]).ok());
    file = Read(path);
    lines = Read(journal);
    const auto second = ResultsFile::Open(path, header);
    ASSERT_FALSE(second.ok());
    EXPECT_THAT(std::string(second.status().message()), HasSubstr("by another run"));
  }
  const auto left = [&](const std::string& content) {
    std::ofstream(path, std::ios::trunc) << file;
    std::ofstream(journal, std::ios::trunc) << content;
    return ResultsFile::Open(path, header);
  };
  ASSERT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3) << "identity and two samples";
  EXPECT_EQ((*left(lines))->results().size(), 2u);
  EXPECT_EQ((*left(lines.substr(0, lines.size() - 1)))->results().size(), 1u);
  EXPECT_EQ((*left(lines + "{\"index\": 1, \"tok"))->results().size(), 2u);
  EXPECT_EQ((*left(lines.substr(0, 10)))->results().size(), 0u);
  EXPECT_EQ((*left(""))->results().size(), 0u);
  EXPECT_THAT(std::string(left("{}\n").status().message()), HasSubstr("no journal"));
  std::string other = lines;
  other.replace(other.find("\"42\""), 4, "\"43\"");
  EXPECT_THAT(std::string(left(other).status().message()),
              HasSubstr("killed.json.part was made with seed = \"43\""));
  {
    const auto rest = *left(lines);
    ASSERT_TRUE(RunTask(*task, *runner, *rest, nullptr, {}).ok());
    EXPECT_EQ(Comparable(rest->Text()), Comparable(whole->Text()));
  }
  EXPECT_EQ(Comparable(Read(path)), Comparable(whole->Text()));
  EXPECT_FALSE(std::ifstream(journal)) << "a finished run leaves one file";
  // Results that were taken away are not brought back.
  std::remove(path.c_str());
  std::ofstream(journal, std::ios::trunc) << lines;
  EXPECT_EQ((*ResultsFile::Open(path, header))->results().size(), 0u);
}

// File names are bytes; a run must not end over one when it is told.
TEST(ResultsFile, NamesThatAreNoUtf8AreKeptReadable) {
  const World world;
  const TaskOptions options = Options("niah_single_1", 1400, 1);
  const auto task = Make(options);
  RunHeader header = Header(options, *task, *world.Runner(1, 1));
  header.facts.emplace_back("haystack", "caf\xE9.txt");
  header.setup.model = "caf\xE9";
  const std::string path = Fresh("latin.json");
  for (int i = 0; i < 2; ++i) {
    const auto file = ResultsFile::Open(path, header);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_THAT((*file)->Text(), HasSubstr("caf\uFFFD.txt"));
  }
}

// Classes differ in the last bits: a run that goes on on another machine tells both.
TEST(ResultsFile, TellsEveryInstructionClassThatComputedSamples) {
  const World world;
  const TaskOptions options = Options("niah_single_1", 1400, 3);
  const auto task = Make(options);
  RunHeader header = Header(options, *task, *world.Runner(1, 1));
  const std::string path = Fresh("classes.json");
  const auto classes = [&](const char* name, uint64_t index) {
    header.setup.instruction_class = name;
    const auto file = *ResultsFile::Open(path, header);
    EXPECT_TRUE(file->Add({.index = index}).ok());
    // The first run is killed: its sample stands in the journal alone.
    EXPECT_TRUE(index == 0 || file->Save().ok());
    return Json::parse(file->Text())["instruction_class"].get<std::string>();
  };
  EXPECT_EQ(classes("avx2", 0), "avx2");
  EXPECT_EQ(classes("avx512", 1), "avx2, avx512");
  EXPECT_EQ(classes("avx2", 2), "avx2, avx512");
}

TEST(ResultsFile, OtherArgumentsAreRefusedByName) {
  const World world;
  TaskOptions options = Options("niah_single_1", 1400, 1);
  const auto task = Make(options);
  const auto runner = world.Runner(1, 1);
  const std::string path = Fresh("refused.json");
  RunHeader header = Header(options, *task, *runner);
  ASSERT_TRUE(ResultsFile::Open(path, header).ok());
  ASSERT_TRUE(ResultsFile::Open(path, header).ok());
  const auto refusal = [&](const RunHeader& other) {
    const auto opened = ResultsFile::Open(path, other);
    return opened.ok() ? "ok" : std::string(opened.status().message());
  };
  options.seed = 7;
  EXPECT_THAT(refusal(Header(options, *task, *runner)),
              HasSubstr("was made with seed = \"42\", this run has \"7\""));
  RunHeader other = header;
  other.setup.fingerprint = "0123";
  EXPECT_THAT(refusal(other), HasSubstr("fingerprint = \"" + header.setup.fingerprint));
  other = header;
  other.setup.settings[2].second = "64";
  EXPECT_THAT(refusal(other), HasSubstr("settings.window = \"32\", this run has \"64\""));
  EXPECT_EQ(refusal(header), "ok");
  const auto refused = [&](const std::string& content) {
    std::ofstream(path, std::ios::trunc) << content;
    return refusal(header);
  };
  EXPECT_THAT(refused("{"), HasSubstr("is no results file"));
  EXPECT_THAT(refused("{\"format_version\": 2}"), HasSubstr("is no results file"));
  EXPECT_THAT(refused("{\"format_version\": 1}"), HasSubstr("is no results file"));
  EXPECT_TRUE(absl::IsUnavailable(ResultsFile::Open("no/such/folder/x.json", header).status()));
}

TEST(LocalRunner, PlacesAreTokensOfTheStream) {
  const World world;
  TaskOptions options = Options("stream_recall", 8192, 1);
  options.distances = {1024, 4096};
  options.checkpoints = 2;
  const auto task = Make(options);
  const auto runner = world.Runner(1, 1);
  std::vector<SampleResult> results;
  RunCallbacks callbacks;
  callbacks.done = [&](SampleResult result) { results.push_back(std::move(result)); };
  const std::vector<uint64_t> samples = {0};
  ASSERT_TRUE(runner->Run(*task, samples, callbacks).ok());
  ASSERT_EQ(results.size(), 1u);
  const Whole whole = ReadWhole(*task, 0);
  ASSERT_EQ(results[0].answers.size(), 3u) << "4,096 has no room before the first checkpoint";
  for (size_t i = 0; i < 3; ++i) {
    const Answer& answer = results[0].answers[i];
    EXPECT_EQ(answer.position, whole.asked_at[i] + 1) << "<bos> and bytes";
    EXPECT_EQ(answer.told[0], whole.marks[answer.question.references[0].mark] + 1);
    EXPECT_EQ(answer.answer_at, answer.position + answer.question.text.size());
    EXPECT_EQ(answer.text.size() > 0, true);
  }
  const Summary summary = Summarise(results);
  EXPECT_EQ(summary.by_distance.at(1024).asked, 2u);
  EXPECT_EQ(summary.by_distance.at(4096).asked, 1u);
  EXPECT_EQ(summary.by_position.at(4096).asked, 1u);
}

TEST(LocalRunner, NamesBadOptions) {
  const World world;
  const auto error = [&](auto&& change) {
    LocalOptions options;
    options.settings = world.Settings();
    change(options);
    const auto runner = LocalRunner::Create(*world.model, *world.tokenizer, options);
    return runner.ok() ? "ok" : std::string(runner.status().message());
  };
  EXPECT_EQ(error([](auto&) {}), "ok");
  EXPECT_THAT(error([](auto& o) { o.threads = 0; }), HasSubstr("threads: 0"));
  EXPECT_THAT(error([](auto& o) { o.streams_per_thread = 17; }), HasSubstr("17"));
  EXPECT_THAT(error([](auto& o) { o.settings.chunk = 33; }), HasSubstr("chunk"));
}

// Against logits taken from the engine directly, one pass for the whole text.
TEST(Perplexity, IsTheBitsOfTheModelsOwnLogits) {
  const World world;
  std::string text;
  for (int i = 0; i < 60; ++i) text += "the number " + std::to_string(i * i) + " and so on. ";
  TaskOptions options = Options("perplexity", 0, 1);
  options.text = WriteFile("perplexity.txt", text);
  options.trained_length = 100;
  const auto task = Make(options);
  const auto runner = world.Runner(1, 1);
  std::vector<SampleResult> results;
  RunCallbacks callbacks;
  callbacks.done = [&](SampleResult result) { results.push_back(std::move(result)); };
  const std::vector<uint64_t> samples = {0};
  ASSERT_TRUE(runner->Run(*task, samples, callbacks).ok());

  text.pop_back();  // a stream never ends in a blank
  std::vector<int32_t> tokens = {*world.model->config().bos};
  const std::vector<int32_t> ids = *world.tokenizer->Encode(text);
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  const memory::LolaSettings settings = world.Settings();
  const memory::StateLayout layout(world.model->geometry(), settings);
  auto arena = *memory::StreamArena::Create(layout.stride_bytes(), 1);
  memory::StreamState state(&layout, arena->record(*arena->Acquire()));
  state.Reset(world.model->fingerprint_bytes());
  engine::StepWorkspace workspace(*world.model, tokens.size(), 1);
  kernels::ThreadPool pool(1);
  const size_t vocab = world.model->geometry().vocab;
  std::vector<float> logits(tokens.size() * vocab);
  engine::Segment segment;
  segment.record = arena->record(0);
  segment.layout = &layout;
  segment.settings = &settings;
  segment.tokens = tokens;
  segment.logits_rows = static_cast<uint32_t>(tokens.size());
  segment.logits = logits.data();
  ASSERT_TRUE(world.model->Step(std::span(&segment, 1), workspace, pool).ok());
  std::map<uint64_t, double> below;
  double all = 0.0;
  for (size_t i = 1; i < tokens.size(); ++i) {
    double sum = 0.0;
    for (size_t v = 0; v < vocab; ++v) sum += std::exp(double{logits[(i - 1) * vocab + v]});
    const double bits = std::log2(sum) - logits[(i - 1) * vocab + tokens[i]] / std::log(2.0);
    below[i < 100 ? 100 : i < 1000 ? 1000 : 10000] += bits;
    all += bits;
  }
  // Same logits bit for bit (P2); only the order of additions in double differs.
  double total = 0.0;
  uint64_t counted = 0;
  for (const auto& [position, count] : results[0].by_position) {
    total += count.bits;
    counted += count.tokens;
    EXPECT_EQ(count.bytes, count.tokens);
  }
  EXPECT_EQ(counted, tokens.size() - 1);
  EXPECT_NEAR(total, all, 1e-9 * all);
  for (const auto& [multiple, bits] : below) {
    EXPECT_NEAR(results[0].by_multiple.at(multiple).bits, bits, 1e-9 * all);
  }
}

// A stream is as long as it was told to be, and fits the window of softmax mode.
TEST(Perplexity, StreamsEndWhereTheyAreTold) {
  const World world;
  TaskOptions options = Options("perplexity", 1500, 2);
  std::string text;
  for (int i = 0; i < 500; ++i) text += "words \u00E9\u00E9 ";
  options.text = WriteFile("long.txt", text);
  for (const uint64_t length : {1500, 1024, 7}) {
    options.length = length;
    const auto task = Make(options);
    EXPECT_GT(task->tokens_per_sample(), length);
    for (uint64_t i = 0; i < 2; ++i) {
      const size_t size = ReadWhole(*task, i).text.size();  // one token a byte
      EXPECT_LE(size, length);
      EXPECT_GE(size + 1, length) << "but for half a character";
    }
  }
}

// Stretches begin behind blanks: a text without them is one stretch, not one and some of nothing.
TEST(Perplexity, ATextThatCannotBeCutIsRefused) {
  TaskOptions options = Options("perplexity", 100, 3);
  options.text = WriteFile("solid.txt", std::string(5000, 'x'));
  options.repeat_haystack = true;
  EXPECT_THAT(Refusal(options), HasSubstr("samples: 3, but"));
  options.samples = 1;
  EXPECT_EQ(Refusal(options), "ok");
}

}  // namespace
}  // namespace lola::evaluate
