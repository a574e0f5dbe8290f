#include "services/evaluate/words.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/check.h"
#include "services/engine/json_reader.h"
#include "services/engine/mapped_file.h"

namespace lola::evaluate {
namespace {

constexpr size_t kFileBytesMax = 16 << 20;

constexpr char kAdjectives[] =
    "amber ample autumn bitter blank bold brave breezy brisk broad bronze busy calm careful chilly "
    "clever cloudy coastal cosy crisp curious damp daring deep distant dusty early earnest easy "
    "empty even faded famous fertile fierce fine first foggy formal fresh frozen gentle giant "
    "gleaming golden grand hasty hidden hollow honest humble idle inner ivory jolly keen kind late "
    "lively lonely loud lucky mellow mild misty modest muddy narrow neat noble northern odd open "
    "pale patient plain polite proud purple quick rapid rare ready remote rich robust rough round "
    "royal rural rusty salty scarlet serene shallow sharp shiny silent silver simple sleepy "
    "slender "
    "smooth snowy solid spare steady steep stern stout strange sturdy sudden sunny swift tall tame "
    "tidy tiny tranquil urban vast velvet vivid wandering weary western wide wild windy wise witty "
    "wooden yellow young zealous";
constexpr char kNouns[] =
    "acorn anchor apple apron arrow attic badger bakery barrel basin basket beacon bell bench "
    "blanket boat bottle branch brick bridge bucket button cabin candle canoe canvas carpet castle "
    "cellar chalk cherry chimney circle cliff clock cloth comet compass copper corner cottage "
    "crane "
    "cricket crown curtain dagger dairy desk dial dove drawer drum eagle engine falcon feather "
    "fence "
    "ferry fiddle finch flag flute forest fountain garden gate glacier glove grove hammer harbour "
    "harvest hatch hedge helmet hill hinge island ivy jacket jar journal jungle kettle key kitchen "
    "kite ladder lake lamp lantern lemon letter lighthouse linen lock loom magnet maple market "
    "meadow melon mill mirror mountain needle nest notebook oak oar orchard otter oven paddle "
    "parcel path pebble pepper piano pillow pine planet plum pocket pond quarry quilt rabbit raft "
    "ribbon ridge ring river rocket roof rope saddle sail sandal school shelf ship shovel signal "
    "spoon spring stable station statue stove stream street sword table temple thimble ticket "
    "tower "
    "trail tunnel turtle valley village violin wagon wall walnut wharf wheel whistle willow window "
    "workshop yard";

std::vector<std::string> Split(const char* list) { return absl::StrSplit(list, ' '); }

absl::Status CheckWords(const char* name, const std::vector<std::string>& words) {
  std::set<std::string_view> seen;
  for (const std::string& word : words) {
    if (!seen.insert(word).second) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": \"", word, "\" stands twice"));
    }
    if (word.empty() || word.find_first_of(" \t\r\n") != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": \"", word, "\" must be one word without blanks"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

Words::Words(std::vector<std::string> adjectives, std::vector<std::string> nouns,
             const std::string& origin)
    : adjectives_(std::move(adjectives)), nouns_(std::move(nouns)) {
  description_ =
      absl::StrCat(origin, " (", adjectives_.size(), " adjectives x ", nouns_.size(), " nouns)");
}

Words Words::BuiltIn() { return Words(Split(kAdjectives), Split(kNouns), "built-in"); }

absl::StatusOr<Words> Words::Parse(std::string_view json) {
  const absl::StatusOr<engine::Json> root = engine::ParseJsonObject(json);
  if (!root.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        root.status().message(), " of the form {\"adjectives\": [...], \"nouns\": [...]}"));
  }
  engine::JsonReader reader(*root, "");
  std::vector<std::string> adjectives = reader.Texts("adjectives", 1);
  std::vector<std::string> nouns = reader.Texts("nouns", 1);
  reader.RefuseUnknown();
  if (!reader.status().ok()) return reader.status();
  absl::Status good = CheckWords("adjectives", adjectives);
  if (good.ok()) good = CheckWords("nouns", nouns);
  if (!good.ok()) return good;
  return Words(std::move(adjectives), std::move(nouns), "given");
}

absl::StatusOr<Words> Words::Load(const std::string& path) {
  const absl::StatusOr<std::string> json = engine::ReadTextFile(path, kFileBytesMax);
  if (!json.ok()) return json.status();
  absl::StatusOr<Words> words = Parse(*json);
  if (!words.ok()) {
    return absl::Status(words.status().code(), absl::StrCat(path, ": ", words.status().message()));
  }
  return Words(std::move(words->adjectives_), std::move(words->nouns_), path);
}

std::string Words::Key(uint64_t index) const {
  LOLA_CHECK_LT(index, count());
  return absl::StrCat(adjectives_[index / nouns_.size()], "-", nouns_[index % nouns_.size()]);
}

}  // namespace lola::evaluate
