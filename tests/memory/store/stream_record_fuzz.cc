// A stream record of any bytes on the disk: the store refuses to open, or opens and serves what it
// can, and never crashes. Requests of any bytes change nothing they should not.
#include <google/protobuf/stubs/logging.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "memory/env/file_env.h"
#include "memory/env/random.h"
#include "memory/store/keys.h"
#include "memory/store/record_db.h"
#include "memory/store/stream_entry.h"
#include "memory/store/stream_store.h"

namespace {

using lola::store::StreamStore;

struct Folder {
  const std::string path =
      std::filesystem::temp_directory_path() / ("lola_fuzz_" + lola::memory::NewUid());
  ~Folder() { std::filesystem::remove_all(path); }
};

// The bytes are written behind the store's back into its database, once per input.
void TryRecord(const std::string& bytes) {
  static const Folder made;
  const std::string& folder = made.path;
  {
    if (!lola::memory::FileEnv::Real()->MakeFolder(folder).ok()) std::abort();
    auto db = lola::store::RecordDb::Open(folder + "/records", 1 << 20, nullptr);
    if (!db.ok()) std::abort();
    rocksdb::WriteBatch batch;
    batch.Put(lola::store::StreamKey("s"), bytes);
    if (!(*db)->Commit(&batch, false).ok()) std::abort();
  }
  lola::store::StoreOptions options;
  options.directory = folder;
  options.collect_every_ms = 0;
  auto store = StreamStore::Open(options);
  if (!store.ok()) {
    if (!absl::IsDataLoss(store.status())) std::abort();
    return;
  }
  (void)(*store)->Describe("s");
  (void)(*store)->Audit();
  lola::v1::ReadTokensRequest read;
  read.set_stream_id("s");
  auto reader = (*store)->ReadTokens(read);
  lola::v1::TokenRun run;
  if (reader.ok()) (void)(*reader)->Next(&run);
  (void)(*store)->Delete("s");
  (void)(*store)->CollectNow();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static int opened = 0;
  // A line for every broken string would be most of the work.
  static const auto silent = google::protobuf::SetLogHandler(nullptr);
  (void)silent;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  // Opening a database takes long: records that parse, and a few that do not.
  if (opened >= 100) return 0;
  const bool open = lola::store::ParseRecord("s", bytes).ok() || opened < 20;
  if (open) {
    ++opened;
    TryRecord(bytes);
  }
  return 0;
}
