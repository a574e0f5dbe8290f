// The eight needle-in-a-haystack tasks.
#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "memory/text.h"
#include "services/evaluate/ruler.h"

namespace lola::evaluate {
namespace {

enum class Hay { kNoise, kEssay, kNeedles };

struct Spec {
  std::string_view name;
  Hay hay;
  bool uuid_keys, uuid_values;
  uint32_t keys, values, queries;
};

constexpr Spec kSpecs[] = {
    {"niah_single_1", Hay::kNoise, false, false, 1, 1, 1},
    {"niah_single_2", Hay::kEssay, false, false, 1, 1, 1},
    {"niah_single_3", Hay::kEssay, false, true, 1, 1, 1},
    {"niah_multikey_1", Hay::kEssay, false, false, 4, 1, 1},
    {"niah_multikey_2", Hay::kNeedles, false, false, 1, 1, 1},
    {"niah_multikey_3", Hay::kNeedles, true, true, 1, 1, 1},
    {"niah_multivalue", Hay::kEssay, false, false, 1, 4, 1},
    {"niah_multiquery", Hay::kEssay, false, false, 4, 1, 4},
};
constexpr uint32_t kMaxTokens = 128;
constexpr uint64_t kDepths = 40;      // of essay needles: evenly spaced over 0..100 %
constexpr uint64_t kWordsLeast = 64;  // keys a word list must give

const Spec* FindSpec(std::string_view name) {
  for (const Spec& spec : kSpecs) {
    if (spec.name == name) return &spec;
  }
  return nullptr;
}

// Version 4, variant 1, from 122 random bits.
std::string Uuid(Random& random) {
  std::array<uint8_t, 16> bytes;
  for (size_t i = 0; i < 16; i += 8) {
    const uint64_t bits = random.Bits();
    for (size_t k = 0; k < 8; ++k) bytes[i + k] = static_cast<uint8_t>(bits >> (8 * k));
  }
  bytes[6] = static_cast<uint8_t>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<uint8_t>((bytes[8] & 0x3f) | 0x80);
  std::string text;
  for (size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    absl::StrAppend(&text, absl::Hex(bytes[i], absl::kZeroPad2));
  }
  return text;
}

// "a", "a, and b", "a, b, c, and d".
std::string JoinQueries(const std::vector<std::string>& queries) {
  if (queries.size() == 1) return queries[0];
  return absl::StrCat(absl::StrJoin(queries.begin(), queries.end() - 1, ", "), ", and ",
                      queries.back());
}

class NiahTask : public SizedTask {
 public:
  NiahTask(const Spec& spec, const RulerOptions& options, TokenCounter counter, Sizing sizing)
      : SizedTask(counter, sizing, options.seed, options.samples),
        spec_(spec),
        words_(options.words),
        essay_(options.haystack) {}

  using SizedTask::Size;
  std::string name() const override { return std::string(spec_.name); }
  std::vector<std::pair<std::string, std::string>> Facts() const override;

 protected:
  LinePrompt Compose(uint64_t index, uint64_t size) const override;

 private:
  struct Needles {
    std::vector<std::string> keys, values, texts;  // needle i: key i / values, value i
    std::vector<std::string> queries;
    std::vector<uint32_t> asked;  // needles asked for
  };

  std::string Key(Random& random) const {
    return spec_.uuid_keys ? Uuid(random) : words_->Key(random.Below(words_->count()));
  }
  std::string Value(Random& random) const {
    return spec_.uuid_values ? Uuid(random) : absl::StrCat(random.Between(1'000'000, 9'999'999));
  }
  std::string Needle(const std::string& key, const std::string& value) const {
    return absl::StrCat("One of the special magic ", spec_.uuid_values ? "uuids" : "numbers",
                        " for ", key, " is: ", value, ".");
  }
  Needles Draw(Random& random) const;
  Question Ask(const Needles& needles) const;
  void PlaceInLines(Random& random, double depth, const Needles& needles, LinePrompt& out) const;
  void PlaceInEssay(Random& random, double depth, const Needles& needles, uint64_t words,
                    LinePrompt& out) const;
  bool single() const { return spec_.queries * spec_.values == 1; }

  const Spec& spec_;
  std::shared_ptr<const Words> words_;
  std::shared_ptr<const Haystack> essay_;
};

NiahTask::Needles NiahTask::Draw(Random& random) const {
  Needles needles;
  while (needles.keys.size() < spec_.keys) {
    std::string key = Key(random);
    if (std::find(needles.keys.begin(), needles.keys.end(), key) == needles.keys.end()) {
      needles.keys.push_back(std::move(key));
    }
  }
  for (const std::string& key : needles.keys) {
    for (uint32_t v = 0; v < spec_.values; ++v) {
      needles.values.push_back(Value(random));
      needles.texts.push_back(Needle(key, needles.values.back()));
    }
  }
  for (const uint64_t key : random.Distinct(spec_.keys, spec_.queries)) {
    needles.queries.push_back(needles.keys[key]);
    for (uint32_t v = 0; v < spec_.values; ++v) {
      needles.asked.push_back(static_cast<uint32_t>(key * spec_.values + v));
    }
  }
  return needles;
}

Question NiahTask::Ask(const Needles& needles) const {
  const std::string query = JoinQueries(needles.queries);
  Question question;
  const std::string type = spec_.uuid_values ? "uuid" : "number";
  if (single()) {
    question.text = absl::StrCat("What is the special magic ", type, " for ", query,
                                 " mentioned in the provided text?");
    question.answer_prefix = absl::StrCat(" The special magic ", type, " for ", query,
                                          " mentioned in the provided text is");
  } else {
    question.text = absl::StrCat("What are all the special magic ", type, "s for ", query,
                                 " mentioned in the provided text?");
    question.answer_prefix = absl::StrCat(" The special magic ", type, "s for ", query,
                                          " mentioned in the provided text are");
  }
  question.max_tokens = static_cast<uint32_t>(generate());
  question.scoring = Scoring::kMatchAll;
  for (const uint32_t needle : needles.asked) {
    question.references.push_back({needles.values[needle], needle});
  }
  return question;
}

// The needle asked for first stands where the sample's depth says; the others anywhere else.
std::vector<uint64_t> ByNeedle(const std::vector<uint64_t>& places, uint32_t first) {
  std::vector<uint64_t> by_needle = places;
  std::swap(by_needle[0], by_needle[first]);
  return by_needle;
}

void InsertSorted(const std::vector<uint64_t>& lines, const std::vector<std::string>& texts,
                  LinePrompt& out) {
  for (size_t i = 0; i < texts.size(); ++i) {
    out.insertions.push_back({lines[i], texts[i], static_cast<uint32_t>(i)});
  }
  std::stable_sort(
      out.insertions.begin(), out.insertions.end(),
      [](const Insertion& a, const Insertion& b) { return a.before_line < b.before_line; });
}

void NiahTask::PlaceInLines(Random& random, double depth, const Needles& needles,
                            LinePrompt& out) const {
  const auto places = Places(random, out.lines, needles.texts.size(), depth);
  InsertSorted(ByNeedle(places, needles.asked[0]), needles.texts, out);
  out.separator = "\n";
  if (spec_.hay == Hay::kNoise) {
    out.line = [](uint64_t) { return std::string(kNoiseLine); };
    return;
  }
  out.line = [this, lines_seed = random.Bits(), queries = needles.queries](uint64_t line) {
    Random own = Random::For(lines_seed, line);
    std::string key = Key(own);
    while (std::find(queries.begin(), queries.end(), key) != queries.end()) key = Key(own);
    return Needle(key, Value(own));
  };
}

void NiahTask::PlaceInEssay(Random& random, double depth, const Needles& needles, uint64_t words,
                            LinePrompt& out) const {
  // Whole rounds of a repeated file first, then a part.
  const uint64_t round = essay_->sentences();
  const uint64_t rounds = words / essay_->words(), rest = words % essay_->words();
  out.lines = rounds * round + essay_->SentencesIn(rest);
  std::vector<uint64_t> places = Places(random, kDepths, needles.texts.size(), depth);
  for (uint64_t& place : places) {
    const uint64_t percent = (place * 200 + kDepths - 1) / (2 * (kDepths - 1));  // rounded
    place = out.lines * percent / 100;
  }
  InsertSorted(ByNeedle(places, needles.asked[0]), needles.texts, out);
  out.separator = " ";
  out.keep_empty = true;
  out.line = [essay = essay_, rounds, round, rest](uint64_t line) {
    return line / round < rounds ? essay->Sentence(line % round)
                                 : essay->Sentence(line % round, rest);
  };
}

LinePrompt NiahTask::Compose(uint64_t index, uint64_t size) const {
  Random random = Random::For(seed(), index);
  const Needles needles = Draw(random);
  const std::string type = spec_.uuid_values ? "uuid" : "number";
  LinePrompt out;
  out.head = single() ? absl::StrCat("A special magic ", type,
                                     " is hidden within the following text. Make sure to memorize "
                                     "it. I will quiz you about the ",
                                     type, " afterwards.\n")
                      : absl::StrCat("Some special magic ", type,
                                     "s are hidden within the following text. Make sure to "
                                     "memorize it. I will quiz you about the ",
                                     type, "s afterwards.\n");
  out.lines = size;
  if (spec_.hay == Hay::kEssay) {
    PlaceInEssay(random, Depth(index), needles, size, out);
  } else {
    PlaceInLines(random, Depth(index), needles, out);
  }
  out.tail = "\n";
  out.question = Ask(needles);
  return out;
}

std::vector<std::pair<std::string, std::string>> NiahTask::Facts() const {
  const bool essay = spec_.hay == Hay::kEssay;
  return {{essay ? "haystack_words" : "haystack_lines", absl::StrCat(haystack())},
          {"haystack_step", absl::StrCat(step())},
          {"haystack", essay                      ? essay_->origin()
                       : spec_.hay == Hay::kNoise ? "noise line"
                                                  : "needle sentences"},
          {"words", spec_.uuid_keys ? "none (uuid keys)" : words_->description()}};
}

}  // namespace

bool NeedsHaystack(std::string_view name) {
  const Spec* spec = FindSpec(name);
  return spec != nullptr && spec->hay == Hay::kEssay;
}

absl::StatusOr<std::unique_ptr<Task>> MakeNiah(std::string_view name, const RulerOptions& options,
                                               TokenCounter counter) {
  const Spec* spec = FindSpec(name);
  if (spec == nullptr) {
    return absl::NotFoundError(absl::StrCat("task: \"", ToAbsl(name), "\" is unknown"));
  }
  if (!spec->uuid_keys && options.words->count() < kWordsLeast) {
    return absl::InvalidArgumentError(absl::StrCat("words: ", options.words->description(),
                                                   " give ", options.words->count(),
                                                   " keys, at least ", kWordsLeast, " are needed"));
  }
  const bool essay = spec->hay == Hay::kEssay;
  if (essay && options.haystack == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("haystack: ", ToAbsl(name), " needs a text file (--haystack FILE)"));
  }
  Sizing sizing;
  sizing.length = options.length;
  sizing.generate = options.max_tokens > 0 ? options.max_tokens : kMaxTokens;
  sizing.step = essay ? 500 : options.length < 4096 ? 5 : 25;
  if (options.haystack_step > 0) sizing.step = options.haystack_step;
  sizing.least = essay ? 0 : uint64_t{spec->keys} * spec->values;
  if (essay && !options.repeat_haystack) sizing.most = options.haystack->words();
  auto task = std::make_unique<NiahTask>(*spec, options, counter, sizing);
  const absl::Status sized = task->Size();
  if (!sized.ok()) return sized;
  return task;
}

}  // namespace lola::evaluate
