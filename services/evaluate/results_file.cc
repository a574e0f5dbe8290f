#include "services/evaluate/results_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/engine/mapped_file.h"
#include "services/evaluate/results_json.h"
#include "services/evaluate/summary.h"
#include "services/evaluate/version.h"

namespace lola::evaluate {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kFileBytesMax = size_t{1} << 30;
constexpr uint64_t kFormatVersion = 1;

Json ToJson(const NamedValues& values) {
  Json object = Json::object();
  for (const auto& [name, value] : values) object[name] = value;
  return object;
}

// What must be equal for two runs to be one.
NamedValues Identity(const RunHeader& header) {
  NamedValues identity = header.arguments;
  identity.emplace_back("fingerprint", header.setup.fingerprint);
  identity.emplace_back("weight_dtype", header.setup.weight_dtype);
  for (const auto& [name, value] : header.setup.settings) {
    identity.emplace_back(absl::StrCat("settings.", name), value);
  }
  return identity;
}

absl::Status CheckIdentity(const std::string& path, const Json& found, const NamedValues& wanted) {
  for (const auto& [name, value] : wanted) {
    const std::string old = found.value(name, "");
    if (old == value) continue;
    return absl::FailedPreconditionError(absl::StrCat("out: ", path, " was made with ", name,
                                                      " = \"", old, "\", this run has \"", value,
                                                      "\"; give another file or remove it"));
  }
  return absl::OkStatus();
}

// Writes all of `text`; false when the system does not take it.
bool WriteAll(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t wrote = ::write(file, text.data(), text.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    text.remove_prefix(static_cast<size_t>(wrote));
  }
  return true;
}

// With a line break. Paths are told as they are: what is no UTF-8 in them is replaced.
std::string Line(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::Status Unwritable(const std::string& path) {
  return absl::UnavailableError(
      absl::StrCat("out: ", path, " cannot be written: ", std::strerror(errno)));
}

}  // namespace

ResultsFile::~ResultsFile() {
  if (journal_ < 0) return;
  struct stat state;
  if (::fstat(journal_, &state) == 0 && state.st_size == 0) ::unlink(JournalPath().c_str());
  ::close(journal_);
}

std::string ResultsFile::JournalPath() const { return absl::StrCat(path_, ".part"); }

absl::Status ResultsFile::OpenJournal() {
  const std::string path = JournalPath();
  for (;;) {
    journal_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (journal_ < 0) return Unwritable(path);
    if (::flock(journal_, LOCK_EX | LOCK_NB) != 0) {
      ::close(std::exchange(journal_, -1));  // the file is the other run's
      return absl::FailedPreconditionError(
          absl::StrCat("out: ", path_, " is being written by another run"));
    }
    struct stat state;
    if (::fstat(journal_, &state) != 0) return Unwritable(path);
    if (state.st_nlink > 0) return absl::OkStatus();
    ::close(journal_);  // the run that had it before removed it meanwhile
  }
}

// Samples that were finished after the file was written last. A run that was killed leaves a last
// line without its end: that sample is run again.
absl::Status ResultsFile::ReadJournal() {
  const std::string path = JournalPath();
  const absl::StatusOr<std::string> text = engine::ReadTextFile(path, kFileBytesMax);
  if (!text.ok()) return text.status();
  bool first = true;
  try {
    for (size_t at = 0, end; (end = text->find('\n', at)) != std::string::npos; at = end + 1) {
      const Json json = Json::parse(text->begin() + static_cast<ptrdiff_t>(at),
                                    text->begin() + static_cast<ptrdiff_t>(end));
      if (std::exchange(first, false)) {
        absl::Status same = CheckIdentity(path, json.at("identity"), Identity(header_));
        if (!same.ok()) return same;
        continue;
      }
      SampleResult sample = SampleFrom(json);
      if (!Has(sample.index)) Insert(std::move(sample));
    }
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("out: ", path, " is no journal of results: ", error.what(), "; remove it"));
  }
  return absl::OkStatus();
}

absl::Status ResultsFile::Read() {
  const absl::StatusOr<std::string> text = engine::ReadTextFile(path_, kFileBytesMax);
  // A journal alone belongs to results that were taken away.
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  if (!text.ok()) return text.status();
  const Json json = Json::parse(*text, nullptr, false);
  std::string earlier;
  // Reads by name throw when something is missing; nothing of that leaves this function.
  try {
    if (json.is_discarded() || json.at("format_version") != kFormatVersion) {
      return absl::InvalidArgumentError(absl::StrCat("out: ", path_, " is no results file"));
    }
    absl::Status same = CheckIdentity(path_, json.at("identity"), Identity(header_));
    if (!same.ok()) return same;
    for (const Json& sample : json.at("samples")) results_.push_back(SampleFrom(sample));
    earlier = json.value("instruction_class", "");
    tokens_ = json.at("run").at("tokens");
    seconds_ = json.at("run").at("seconds");
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("out: ", path_, " is no results file: ", error.what()));
  }
  absl::Status journal = ReadJournal();
  if (!results_.empty()) AddClasses(earlier);
  return journal;
}

absl::StatusOr<std::unique_ptr<ResultsFile>> ResultsFile::Open(const std::string& path,
                                                               RunHeader header) {
  auto file = std::unique_ptr<ResultsFile>(new ResultsFile(path, std::move(header)));
  if (path.empty()) return file;
  absl::Status status = file->OpenJournal();
  if (status.ok()) status = file->Read();
  // A file that cannot be written is found out before hours of work, not after.
  if (status.ok()) status = file->Save();
  if (!status.ok()) return status;
  return file;
}

bool ResultsFile::Has(uint64_t index) const {
  return std::any_of(results_.begin(), results_.end(),
                     [index](const SampleResult& result) { return result.index == index; });
}

absl::Status ResultsFile::Add(SampleResult result) {
  std::string line;
  if (journal_ >= 0 && std::exchange(journal_is_empty_, false)) {
    Json owner;
    owner["identity"] = ToJson(Identity(header_));
    line = Line(owner);
  }
  if (journal_ >= 0) line += Line(ToJson(result));
  Insert(std::move(result));
  return journal_ < 0 || WriteAll(journal_, line) ? absl::OkStatus() : Unwritable(JournalPath());
}

void ResultsFile::Insert(SampleResult result) {
  const auto at =
      std::lower_bound(results_.begin(), results_.end(), result.index,
                       [](const SampleResult& a, uint64_t index) { return a.index < index; });
  results_.insert(at, std::move(result));
}

void ResultsFile::AddClasses(const std::string& earlier) {
  const std::vector<std::string> known = absl::StrSplit(earlier, ", ", absl::SkipEmpty());
  const bool has = std::find(known.begin(), known.end(), classes_) != known.end();
  if (!known.empty()) classes_ = has ? earlier : absl::StrCat(earlier, ", ", classes_);
}

void ResultsFile::AddEffort(uint64_t tokens, double seconds) {
  tokens_ += tokens;
  seconds_ += seconds;
}

std::string ResultsFile::Text(int indent) const {
  const RunSetup& setup = header_.setup;
  Json json = {
      {"format_version", kFormatVersion},
      {"tool", absl::StrCat("lola eval ", BuildVersion())},
      {"engine", setup.engine},
      {"model", setup.model},
      {"instruction_class", classes_},
      {"state_bytes", setup.state_bytes},
      {"identity", ToJson(Identity(header_))},
      {"facts", ToJson(header_.facts)},
      {"summary", ToJson(Summarise(results_))},
      {"run",
       {{"tokens", tokens_},
        {"seconds", seconds_},
        {"tokens_per_second", seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0.0}}},
      {"samples", Json::array()}};
  for (const SampleResult& result : results_) json["samples"].push_back(ToJson(result));
  return Line(json, indent);
}

absl::Status ResultsFile::Save() {
  if (path_.empty()) return absl::OkStatus();
  const std::string fresh = absl::StrCat(path_, ".new");
  const int file = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return Unwritable(fresh);
  const bool written = WriteAll(file, Text(1)) && ::fsync(file) == 0;
  ::close(file);
  if (!written) return Unwritable(fresh);
  if (std::rename(fresh.c_str(), path_.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("out: ", path_, " cannot be replaced"));
  }
  if (::ftruncate(journal_, 0) != 0) return Unwritable(JournalPath());
  journal_is_empty_ = true;
  return absl::OkStatus();
}

}  // namespace lola::evaluate
