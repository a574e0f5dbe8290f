// The `lola` program, run as people and scripts run it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "nlohmann/json.hpp"
#include "services/rpc/server_runner.h"
#include "services/standalone/standalone.h"
#include "tests/support/cluster.h"

namespace lola::testing {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string TinyModel() {
  return std::string(LOLA_SOURCE_DIR) + "/tests/testdata/parity/tiny_model";
}

class ProgramTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    world_ = new World();
    auto served = worker::LoadServedModel(
        std::string(LOLA_SOURCE_DIR) + "/tests/testdata/parity/tiny_model", "float32");
    ASSERT_TRUE(served.ok()) << served.status();
    standalone::StandaloneOptions options;
    options.data = world_->folder.path();
    options.workers = 2;
    options.shards = 2;
    options.worker.compute.threads = 1;
    options.worker.engine.slots = 16;
    auto system = standalone::Standalone::Create(options, *served);
    ASSERT_TRUE(system.ok()) << system.status();
    world_->system = *std::move(system);
    rpc::ServerOptions server;
    server.bind = "127.0.0.1:0";
    world_->server = *rpc::Server::Start(server, world_->system->services());
  }
  static void TearDownTestSuite() {
    delete world_;
    world_ = nullptr;
  }

  static CommandResult Lola(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), std::string(LOLA_BINARY_DIR) + "/bin/lola");
    arguments.push_back("--endpoint");
    arguments.push_back(world_->server->address());
    return RunProgram(arguments, std::chrono::seconds(60));
  }
  static Json LolaJson(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const CommandResult result = Lola(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return Json::parse(result.output, nullptr, false);
  }
  static std::string File(const std::string& text) {
    const std::string path = world_->folder.path() + "/text.txt";
    std::ofstream(path) << text;
    return path;
  }

  struct World {
    TempFolder folder;
    std::unique_ptr<standalone::Standalone> system;
    std::unique_ptr<rpc::Server> server;
  };
  static World* world_;
};
ProgramTest::World* ProgramTest::world_ = nullptr;

TEST_F(ProgramTest, FeedAskDescribeTellTheSamePosition) {
  const std::string text(5000, 'x');
  const Json fed = LolaJson({"feed", "book", File(text), "--piece", "1000"});
  EXPECT_EQ(fed["bytes"], 5000);
  const Json asked = LolaJson({"ask", "book", "and then ", "--max-tokens", "12", "--ignore-eos"});
  EXPECT_EQ(asked["generated_tokens"], 12);
  const Json described = LolaJson({"describe", "book"});
  EXPECT_EQ(described["committed_position"], std::to_string(asked["position"].get<uint64_t>()));
  const CommandResult readable = Lola({"describe", "book"});
  EXPECT_THAT(readable.output, HasSubstr("constant"));
}

TEST_F(ProgramTest, AskAsideLeavesTheStreamUnchanged) {
  const Json first = LolaJson({"ask", "kept", "some text ", "--max-tokens", "5", "--ignore-eos"});
  const Json aside =
      LolaJson({"ask", "kept", "a question", "--aside", "--max-tokens", "5", "--ignore-eos"});
  EXPECT_GT(aside["position"], first["position"]);
  EXPECT_EQ(LolaJson({"describe", "kept"})["committed_position"],
            std::to_string(first["position"].get<uint64_t>()));
  for (const Json& stream : LolaJson({"ls", "--id-prefix", "kept"})["streams"]) {
    EXPECT_EQ(stream["stream_id"], "kept") << "the fork must be gone";
  }
}

TEST_F(ProgramTest, GenerationIsReproducibleBySeed) {
  for (const std::string id : {"seed-a", "seed-b"}) {
    LolaJson({"feed", id, File("the same past for both")});
  }
  const std::vector<std::string> sampled = {"--max-tokens", "30", "--temperature", "1",
                                            "--seed",       "5",  "--ignore-eos"};
  std::vector<std::string> a = {"ask", "seed-a", "go "}, b = {"ask", "seed-b", "go "};
  a.insert(a.end(), sampled.begin(), sampled.end());
  b.insert(b.end(), sampled.begin(), sampled.end());
  EXPECT_EQ(LolaJson(a)["text"], LolaJson(b)["text"]);
}

TEST_F(ProgramTest, ForkSnapshotRewindMigrateRemove) {
  LolaJson({"feed", "life", File("the first half of a life. ")});
  const Json snapshot = LolaJson({"snapshot", "life", "half"});
  const Json info = LolaJson({"describe", "life"});
  EXPECT_EQ(snapshot["position"], info["committed_position"]);
  for (const std::string id : {"life-1", "life-2", "life-3", "life-4"}) {
    EXPECT_EQ(LolaJson({"fork", "life", id})["parent"], "life");
  }
  LolaJson({"feed", "life", File("and more")});
  EXPECT_EQ(LolaJson({"rewind", "life", "--to", "half"})["committed_position"],
            snapshot["position"]);
  LolaJson({"ask", "life", "x", "--max-tokens", "2", "--ignore-eos"});
  const Json moved = LolaJson({"migrate", "life"});
  EXPECT_NE(moved["target"], moved["source"]);
  EXPECT_EQ(LolaJson({"describe", "life"})["owner"], moved["target"]);
  EXPECT_EQ(Lola({"rm", "life"}).exit_code, 0);
  EXPECT_EQ(Lola({"describe", "life"}).exit_code, 4);
}

TEST_F(ProgramTest, InspectShowsPairsAsText) {
  LolaJson({"feed", "seen", File(std::string(40, 'q') + " and " + std::string(400, 'w'))});
  const Json memory = LolaJson({"inspect", "seen"});
  EXPECT_FALSE(memory["heads"].empty());
  EXPECT_EQ(memory["state_digest"].get<std::string>().size(), 32u);
  const CommandResult readable = Lola({"inspect", "seen", "--layer", "0", "--top", "3"});
  EXPECT_EQ(readable.exit_code, 0) << readable.output;
  EXPECT_THAT(readable.output, HasSubstr("layer 0 head 0"));
  EXPECT_THAT(readable.output, ::testing::Not(HasSubstr("layer 1")));
}

TEST_F(ProgramTest, ClusterCommandsAnswer) {
  EXPECT_EQ(LolaJson({"workers"})["workers"].size(), 2u);
  EXPECT_EQ(LolaJson({"shards"})["shards"].size(), 2u);
  const Json model = LolaJson({"model", "info"});
  EXPECT_GT(std::stoull(model["state_bytes"].get<std::string>()), 0u);
  EXPECT_THAT(Lola({"model", "info"}).output, HasSubstr("stream of any length"));
  EXPECT_THAT(Lola({"workers"}).output, HasSubstr("healthy"));
}

TEST_F(ProgramTest, TellsWhatAModelWouldNeedWithoutItsWeights) {
  const auto info = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"model", "info", "--model", "random:llama-3.1-8b"});
    return LolaJson(std::move(more));
  };
  const Json model = info({});
  EXPECT_EQ(model["parameters"], 8030261248u + 32u * (2 * 32 * 128 * 128 + 32));
  const uint64_t int8 = model["weight_bytes"]["int8"], bf16 = model["weight_bytes"]["bfloat16"];
  EXPECT_GT(int8, 8'000'000'000u);
  EXPECT_LT(int8, bf16 * 6 / 10);
  const uint64_t few = info({"--cache-pairs", "0"})["state_bytes"];
  EXPECT_LT(few, model["state_bytes"].get<uint64_t>());
  EXPECT_GT(info({"--window", "512"})["state_bytes"], model["state_bytes"].get<uint64_t>());
  EXPECT_THAT(Lola({"model", "info", "--model", "random:giant"}).output, HasSubstr("llama-3.1-8b"));
  EXPECT_EQ(Lola({"model", "info", "--model", "random:tiny", "--profile", "x"}).exit_code, 2);
  // A directory without weights: only config.json is read.
  const std::string folder = world_->folder.path() + "/config_alone";
  std::filesystem::create_directory(folder);
  std::filesystem::copy_file(TinyModel() + "/config.json", folder + "/config.json");
  EXPECT_GT(LolaJson({"model", "info", "--model", folder})["state_bytes"], 0);
}

TEST_F(ProgramTest, BenchMeasuresAndCleansUp) {
  const Json bench = LolaJson({"bench", "--streams", "2", "--prompt", "200", "--tokens", "8"});
  EXPECT_EQ(bench["generated_tokens"], 16);
  EXPECT_GT(bench["decode_tokens_per_second"], 0.0);
  EXPECT_TRUE(LolaJson({"ls", "--id-prefix", "bench-"})["streams"].empty());
}

// The same texts, questions and states, so the same answers: through gateway, worker and shard, and
// over the engine alone.
TEST_F(ProgramTest, EvalAnswersTheSameThroughTheEndpointAndInProcess) {
  for (const std::string task : {"niah_multikey_2", "passkey"}) {
    const std::vector<std::string> texts = {
        "eval", task, "--length", "1500", "--samples", "3", "--max-tokens", "10", "--streams", "2"};
    std::vector<std::string> endpoint = texts, local = texts;
    endpoint.insert(endpoint.end(), {"--tokenizer", TinyModel()});
    local.insert(local.end(), {"--model", TinyModel()});
    const Json a = LolaJson(endpoint), b = LolaJson(local);
    EXPECT_EQ(a["samples"].size(), 3u);
    EXPECT_EQ(a["samples"], b["samples"]);
    EXPECT_EQ(a["identity"], b["identity"]);
    EXPECT_EQ(a["state_bytes"], b["state_bytes"]);
    EXPECT_FALSE(a["samples"][0]["answers"][0]["output"].get<std::string>().empty());
  }
  EXPECT_TRUE(LolaJson({"ls", "--id-prefix", "eval-"})["streams"].empty()) << "all are deleted";
}

TEST_F(ProgramTest, EvalKeepsResultsAndRefusesOtherArguments) {
  const std::string out = world_->folder.path() + "/results.json";
  std::vector<std::string> run = {"eval", "passkey",   "--model", TinyModel(), "--length",
                                  "900",  "--samples", "2",       "--out",     out};
  const CommandResult first = Lola(run);
  EXPECT_EQ(first.exit_code, 0) << first.output;
  for (const char* word : {"score", "window=", "seed=42", "bytes of one stream", "DEPTH"}) {
    EXPECT_THAT(first.output, HasSubstr(word));
  }
  EXPECT_EQ(Lola(run).exit_code, 0) << "nothing left to do";
  const CommandResult other = Lola({"eval", "passkey", "--model", TinyModel(), "--length", "1000",
                                    "--samples", "2", "--out", out});
  EXPECT_NE(other.exit_code, 0);
  EXPECT_THAT(other.output, HasSubstr("length = \"900\", this run has \"1000\""));
}

TEST_F(ProgramTest, EvalGoesOnAfterKill) {
  const std::string out = world_->folder.path() + "/killed.json", log = out + ".log";
  const std::vector<std::string> run = {
      "eval", "niah_single_1", "--model", TinyModel(), "--length", "4000",  "--samples",
      "12",   "--threads",     "1",       "--streams", "1",        "--out", out};
  std::vector<std::string> arguments = run;
  arguments.insert(arguments.begin(), std::string(LOLA_BINARY_DIR) + "/bin/lola");
  const auto journal = [&out] {
    std::ifstream in(out + ".part");
    return std::count(std::istreambuf_iterator<char>(in), {}, '\n');
  };
  {
    ChildProcess killed(arguments, log);
    while (killed.running() && journal() <= 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    killed.Kill();
  }
  // The first line says whose they are.
  const uint64_t finished = static_cast<uint64_t>(std::max<ptrdiff_t>(1, journal())) - 1;
  const Json rest = LolaJson(run);
  EXPECT_EQ(rest["samples"].size(), 12u);
  EXPECT_FALSE(std::filesystem::exists(out + ".part"));
  std::vector<std::string> whole = run;
  whole.resize(whole.size() - 2);
  EXPECT_EQ(LolaJson(whole)["samples"], rest["samples"]);
  // What was finished was not run again: the second run took no more tokens than the rest has.
  EXPECT_LE(rest["run"]["tokens"].get<uint64_t>(), (12 - finished) * 4200);
}

TEST_F(ProgramTest, EvalNamesWhatItCannotDo) {
  const CommandResult unknown = Lola({"eval", "niah_single_9"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.output, HasSubstr("niah_multiquery"));
  EXPECT_THAT(Lola({"eval", "perplexity", "--text", File("abc")}).output, HasSubstr("--model"));
  EXPECT_EQ(Lola({"eval", "niah_single_2", "--haystack", "no/such"}).exit_code, 4);
  EXPECT_THAT(Lola({"eval", "stream_recall", "--distances", "1k"}).output, HasSubstr("'1k'"));
  EXPECT_THAT(Lola({"eval", "passkey", "--rescore", "maybe"}).output, HasSubstr("\"maybe\""));
  const CommandResult samples = Lola({"eval", "passkey", "--print-samples", "2"});
  EXPECT_EQ(std::count(samples.output.begin(), samples.output.end(), '\n'), 2);
}

TEST_F(ProgramTest, ErrorsHaveTheDocumentedExitCodes) {
  EXPECT_EQ(Lola({"describe", "nobody"}).exit_code, 4);
  EXPECT_EQ(Lola({"describe", "no spaces"}).exit_code, 2);
  EXPECT_EQ(Lola({"feed", "x", "no/such/file"}).exit_code, 4);
  EXPECT_EQ(Lola({"frobnicate"}).exit_code, 2);
  EXPECT_EQ(Lola({"rewind", "x"}).exit_code, 2);
  EXPECT_EQ(Lola({"ask", "x", "y", "--no-create"}).exit_code, 4);
  EXPECT_EQ(Lola({"ask", "x", "y", "--max-tokens", "0"}).exit_code, 2);
  const CommandResult bad = Lola({"feed", "x", File("ab\xff")});
  EXPECT_EQ(bad.exit_code, 2);
  EXPECT_THAT(bad.output, HasSubstr("byte 2"));
  LolaJson({"feed", "twice", File("a")});
  LolaJson({"feed", "taken", File("a")});
  EXPECT_EQ(Lola({"fork", "twice", "taken"}).exit_code, 5);
}

TEST_F(ProgramTest, ChatRefusesTemplatesThatDoNotFit) {
  const std::string folder = world_->folder.path() + "/chat_model";
  std::filesystem::create_directory(folder);
  EXPECT_EQ(Lola({"chat", "c", "--system", "Be brief."}).exit_code, 2);
  EXPECT_EQ(Lola({"chat", "c", "--template", folder}).exit_code, 4);
  std::filesystem::copy_file(
      std::string(LOLA_SOURCE_DIR) + "/tests/testdata/parity/tiny_model/tokenizer.json",
      folder + "/tokenizer.json");
  const CommandResult none = Lola({"chat", "c", "--template", folder});
  EXPECT_EQ(none.exit_code, 5) << none.output;
  EXPECT_THAT(none.output, HasSubstr("no chat_template"));
  std::ofstream(folder + "/chat_template.jinja") << "{{ messages }}";
  EXPECT_THAT(Lola({"chat", "c", "--template", folder}).output,
              HasSubstr("chat_template: \"{{ messages }}\""));
  std::ofstream(folder + "/chat_template.jinja") << "<|im_start|>assistant\\n <|im_end|>";
  EXPECT_THAT(Lola({"chat", "c", "--template", folder}).output,
              HasSubstr("\"<|im_end|>\" of the family chatml is no control token"));
}

TEST_F(ProgramTest, HelpTeachesWithExamples) {
  const CommandResult help = Lola({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* word : {"chat", "feed", "inspect", "Exit codes", "LOLA_ENDPOINT"}) {
    EXPECT_THAT(help.output, HasSubstr(word));
  }
  EXPECT_THAT(Lola({"ask", "--help"}).output, HasSubstr("--aside"));
}

}  // namespace
}  // namespace lola::testing
