#include "services/evaluate/stream_recall.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/evaluate/line_script.h"
#include "services/evaluate/statements.h"

namespace lola::evaluate {
namespace {

constexpr uint64_t kSentenceBytesMax = 512;  // a statement waits for the end of a sentence
constexpr uint64_t kUpdateGapBytes = 256;    // least between an older statement and its update
constexpr size_t kPlanMax = 1 << 20;

// A statement to make, or a question to ask, when the stream is that long.
struct Event {
  uint64_t at = 0;  // bytes
  bool ask = false;
  uint32_t statement = 0;  // of Plan::statements
  bool newest = true;      // statement: false = the value that will be replaced
};

struct Fact {
  std::string name, digits, older;  // older empty: never updated
};

struct Plan {
  std::vector<Fact> facts;
  std::vector<Event> events;  // ascending
};

class StreamRecallScript : public Script {
 public:
  StreamRecallScript(Plan plan, const StreamRecallOptions& options, const TokenCounter& counter,
                     uint64_t seed)
      : plan_(std::move(plan)),
        options_(options),
        counter_(counter),
        writer_(*options.text, seed),
        sentence_(options.prose == nullptr ? 0 : writer_.Below(options.prose->sentences())) {}

  Step Next() override {
    while (next_ < plan_.events.size()) {
      const Event& event = plan_.events[next_];
      while (written_ < event.at && pending_.size() < kPieceBytes) Write(Filler());
      const bool asks = event.ask && written_ >= event.at;
      if (HasText() && (pending_.size() >= kPieceBytes || event.ask)) {
        Step piece = TakePiece(pending_, marks_);
        // No text comes between a statement and its question: it ends before its own blank.
        for (const Mark& mark : marks_) {
          if (asks) piece.marks.push_back({mark.id, piece.text.size()});
        }
        if (asks) marks_.clear();
        return piece;
      }
      if (written_ < event.at) continue;
      ++next_;
      if (event.ask) return Ask(event);
      const Fact& fact = plan_.facts[event.statement];
      Write(options_.text->Statement(fact.name, event.newest ? fact.digits : fact.older));
      if (event.newest) marks_.push_back({event.statement, pending_.size()});
    }
    return {};
  }

 private:
  bool HasText() const { return pending_.find_last_not_of(' ') != std::string::npos; }
  void Write(const std::string& text) {
    pending_ += text;
    written_ += text.size();
  }
  std::string Filler() {
    if (options_.prose == nullptr) return writer_.Filler(options_.number_share);
    if (options_.number_share > 0.0 && writer_.Uniform() < options_.number_share) {
      return writer_.Filler(1.0);
    }
    return options_.prose->Sentence(sentence_++ % options_.prose->sentences()) + " ";
  }
  Step Ask(const Event& event) {
    const Fact& fact = plan_.facts[event.statement];
    Step step;
    step.kind = Step::Kind::kQuestion;
    step.question = AskStatement(*options_.text, fact.name, counter_);
    step.question.text.insert(0, pending_);  // the blank the stream ends with
    step.question.references.push_back({fact.digits, event.statement});
    if (!fact.older.empty()) step.question.older.push_back(fact.older);
    return step;
  }

  const Plan plan_;
  const StreamRecallOptions& options_;
  const TokenCounter& counter_;
  PasskeyWriter writer_;
  uint64_t sentence_;
  size_t next_ = 0;
  uint64_t written_ = 0;
  std::string pending_;
  std::vector<Mark> marks_;
};

class StreamRecallTask : public Task {
 public:
  StreamRecallTask(StreamRecallOptions options, TokenCounter counter, double per_byte)
      : options_(std::move(options)), counter_(counter), per_byte_(per_byte) {}

  std::string name() const override { return "stream_recall"; }
  uint64_t samples() const override { return options_.samples; }
  uint64_t tokens_per_sample() const override { return options_.length + 2048; }
  std::unique_ptr<Script> Open(uint64_t index) const override {
    Random random = Random::For(options_.seed, index);
    const uint64_t seed = random.Bits();
    return std::make_unique<StreamRecallScript>(MakePlan(random), options_, counter_, seed);
  }
  std::vector<std::pair<std::string, std::string>> Facts() const override {
    const bool prose = options_.prose != nullptr;
    const double bytes = static_cast<double>(options_.length) / per_byte_;
    return {{"haystack", prose ? options_.prose->origin() : "passkey_text.json"},
            {"haystack_rounds",
             prose ? absl::StrCat(bytes / static_cast<double>(options_.prose->bytes())) : "0"},
            {"distances_asked", absl::StrJoin(options_.distances, ",")},
            {"questions_per_stream", absl::StrCat(Places().size() * options_.needles)}};
  }

  // (where asked, how far back), tokens: those that have room.
  std::vector<std::pair<uint64_t, uint64_t>> Places() const {
    std::vector<std::pair<uint64_t, uint64_t>> places;
    const uint64_t least = static_cast<uint64_t>(
        per_byte_ * static_cast<double>(kSentenceBytesMax + Room() + kUpdateGapBytes));
    for (uint64_t c = 1; c <= options_.checkpoints; ++c) {
      const uint64_t at = options_.length * c / options_.checkpoints;
      for (const uint64_t distance : options_.distances) {
        if (distance + least < at) places.emplace_back(at, distance);
      }
    }
    return places;
  }

 private:
  // Bytes of the statements of one place.
  uint64_t Room() const { return options_.needles * options_.text->statement_bytes(); }
  uint64_t Bytes(uint64_t tokens) const {
    return static_cast<uint64_t>(static_cast<double>(tokens) / per_byte_);
  }

  Plan MakePlan(Random& random) const {
    const PasskeyText& text = *options_.text;
    const auto letters = [&random](const std::string& alphabet, uint32_t length) {
      std::string out;
      for (uint32_t i = 0; i < length; ++i) out += alphabet[random.Below(alphabet.size())];
      return out;
    };
    Plan plan;
    std::set<std::string> names;
    for (const auto& [at, distance] : Places()) {
      for (uint32_t n = 0; n < options_.needles; ++n) {
        Fact fact;
        do {
          fact.name = letters(text.name_alphabet, text.name_length);
        } while (!names.insert(fact.name).second);
        fact.digits = letters(text.digits_alphabet, text.digits_length);
        const auto id = static_cast<uint32_t>(plan.facts.size());
        const uint64_t told = Bytes(at - distance) - Room() - kSentenceBytesMax;
        if (random.Uniform() < options_.update_share) {
          do {
            fact.older = letters(text.digits_alphabet, text.digits_length);
          } while (fact.older == fact.digits);
          const uint64_t before = told > kUpdateGapBytes ? told - kUpdateGapBytes : 1;
          plan.events.push_back({random.Below(before), false, id, false});
        }
        plan.events.push_back({told, false, id, true});
        plan.events.push_back({Bytes(at), true, id, true});
        plan.facts.push_back(std::move(fact));
      }
    }
    std::stable_sort(plan.events.begin(), plan.events.end(), [](const Event& a, const Event& b) {
      return std::pair(a.at, a.ask) < std::pair(b.at, b.ask);
    });
    return plan;
  }

  const StreamRecallOptions options_;
  const TokenCounter counter_;
  const double per_byte_;
};

double ProseTokensPerByte(const Haystack& prose, const TokenCounter& counter) {
  std::string probe;
  for (uint64_t i = 0; i < prose.sentences() && probe.size() < (64u << 10); ++i) {
    probe += prose.Sentence(i) + " ";
  }
  return static_cast<double>(counter.Text(probe)) / static_cast<double>(probe.size());
}

absl::Status CheckOptions(const StreamRecallOptions& o) {
  const auto refuse = [](const char* name, auto value, const std::string& must) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", value, ", must be ", must));
  };
  if (o.samples == 0) return refuse("samples", o.samples, "at least 1");
  if (o.checkpoints == 0) return refuse("checkpoints", o.checkpoints, "at least 1");
  if (o.needles == 0) return refuse("needles", o.needles, "at least 1");
  if (!(o.update_share >= 0.0 && o.update_share <= 1.0)) {
    return refuse("update_share", o.update_share, "0 to 1");
  }
  if (!(o.number_share >= 0.0 && o.number_share <= 1.0)) {
    return refuse("number_share", o.number_share, "0 to 1");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Task>> MakeStreamRecall(const StreamRecallOptions& given,
                                                       TokenCounter counter) {
  const absl::Status good = CheckOptions(given);
  if (!good.ok()) return good;
  StreamRecallOptions options = given;
  for (uint64_t d = 1024; given.distances.empty() && d < options.length; d *= 4) {
    options.distances.push_back(d);
  }
  const double per_byte = options.prose == nullptr ? TokensPerByte(*options.text, counter)
                                                   : ProseTokensPerByte(*options.prose, counter);
  auto task = std::make_unique<StreamRecallTask>(options, counter, per_byte);
  const uint64_t statements = task->Places().size() * options.needles;
  if (statements == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "length: ", options.length, " has no place for a statement ",
        options.distances.empty() ? 1024 : options.distances.front(), " tokens before a question"));
  }
  const double names = options.text->names();
  if (statements > kPlanMax || static_cast<double>(statements) > names / 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "needles: ", options.needles, " make ", statements, " statements a stream, at most ",
        std::min<uint64_t>(kPlanMax, static_cast<uint64_t>(names / 2)), " have names"));
  }
  return task;
}

}  // namespace lola::evaluate
