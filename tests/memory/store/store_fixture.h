// A store in a fresh folder with a fake clock, and short ways to say what tests do with it.
#ifndef LOLA_TESTS_MEMORY_STORE_STORE_FIXTURE_H_
#define LOLA_TESTS_MEMORY_STORE_STORE_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "memory/env/failpoint.h"
#include "memory/env/fault_file_env.h"
#include "memory/env/random.h"
#include "memory/store/stream_store.h"

namespace lola::store {

inline const std::string kDigest(16, 'd');

class StoreTest : public ::testing::Test {
 protected:
  StoreTest()
      : folder_(std::filesystem::temp_directory_path() / ("lola_store_" + memory::NewUid())) {
    options_.directory = folder_;
    options_.clock = &clock_;
    options_.files = &files_;
    options_.collect_every_ms = 0;
    Reopen();
  }
  ~StoreTest() override {
    EXPECT_TRUE(memory::ArmFailpoints("").ok());
    store_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Reopen() {
    store_.reset();
    auto store = StreamStore::Open(options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  static v1::CreateStreamRequest CreateRequest(const std::string& id) {
    v1::CreateStreamRequest request;
    request.set_stream_id(id);
    request.set_model_fingerprint("model");
    request.set_state_bytes(4096);
    request.set_request_id("create-" + id);
    return request;
  }
  v1::StreamInfo Create(const std::string& id) {
    auto info = store_->Create(CreateRequest(id));
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? *info : v1::StreamInfo();
  }
  static v1::AcquireRequest AcquireRequest(const std::string& id, const std::string& worker) {
    v1::AcquireRequest request;
    request.set_stream_id(id);
    request.set_worker(worker);
    request.set_worker_instance(worker + "-instance");
    request.set_lease_ms(5000);
    request.set_model_fingerprint("model");
    return request;
  }
  uint64_t Acquire(const std::string& id, const std::string& worker = "worker") {
    auto reply = store_->Acquire(AcquireRequest(id, worker));
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.ok() ? reply->epoch() : 0;
  }

  static void AddEntry(const std::string& id, uint64_t epoch, uint64_t position,
                       const std::vector<int32_t>& ids, v1::AppendBatchRequest* request,
                       v1::TokenAuthor author = v1::TOKEN_AUTHOR_CLIENT) {
    v1::AppendEntry& entry = *request->add_entries();
    entry.set_stream_id(id);
    entry.set_epoch(epoch);
    v1::TokenRun& run = *entry.add_runs();
    run.set_position(position);
    run.set_author(author);
    run.mutable_ids()->Add(ids.begin(), ids.end());
  }
  // The single entry's result as a status.
  absl::Status Append(const std::string& id, uint64_t epoch, uint64_t position,
                      const std::vector<int32_t>& ids,
                      v1::TokenAuthor author = v1::TOKEN_AUTHOR_CLIENT) {
    v1::AppendBatchRequest request;
    AddEntry(id, epoch, position, ids, &request, author);
    auto reply = store_->Append(request);
    if (!reply.ok()) return reply.status();
    return absl::Status(absl::StatusCode(reply->results(0).code()), reply->results(0).message());
  }
  static std::vector<int32_t> Count(int32_t from, size_t n) {
    std::vector<int32_t> ids(n);
    for (size_t i = 0; i < n; ++i) ids[i] = from + int32_t(i);
    return ids;
  }
  std::vector<int32_t> Tokens(const std::string& id, uint64_t from = 0, uint64_t to = 0) {
    v1::ReadTokensRequest request;
    request.set_stream_id(id);
    request.set_from(from);
    request.set_to(to);
    auto reader = store_->ReadTokens(request);
    EXPECT_TRUE(reader.ok()) << reader.status();
    std::vector<int32_t> ids;
    v1::TokenRun run;
    for (;;) {
      auto more = (*reader)->Next(&run);
      EXPECT_TRUE(more.ok()) << more.status();
      if (!more.ok() || !*more) return ids;
      EXPECT_EQ(run.position(), from + ids.size());
      ids.insert(ids.end(), run.ids().begin(), run.ids().end());
    }
  }

  static v1::PutSnapshotHeader Header(const std::string& id, uint64_t epoch, uint64_t position,
                                      size_t bytes, const std::string& name = "") {
    v1::PutSnapshotHeader header;
    header.set_stream_id(id);
    header.set_epoch(epoch);
    header.set_position(position);
    header.set_digest(kDigest);
    header.set_size_bytes(bytes);
    header.set_name(name);
    return header;
  }
  absl::StatusOr<v1::SnapshotInfo> Put(const v1::PutSnapshotHeader& header,
                                       const std::string& bytes) {
    auto upload = store_->PutSnapshot(header);
    if (!upload.ok()) return upload.status();
    for (size_t at = 0; at < bytes.size(); at += 1000) {
      absl::Status status = (*upload)->Write(std::string_view(bytes).substr(at, 1000));
      if (!status.ok()) return status;
    }
    return (*upload)->Commit();
  }
  absl::StatusOr<v1::SnapshotInfo> Put(const std::string& id, uint64_t epoch, uint64_t position,
                                       const std::string& bytes, const std::string& name = "") {
    return Put(Header(id, epoch, position, bytes.size(), name), bytes);
  }
  absl::StatusOr<std::string> Get(const std::string& id, const std::string& blob_id) {
    v1::GetSnapshotRequest request;
    request.set_stream_id(id);
    request.set_blob_id(blob_id);
    auto download = store_->GetSnapshot(request);
    if (!download.ok()) return download.status();
    std::string bytes, piece;
    do {
      if (absl::Status status = (*download)->Next(1500, &piece); !status.ok()) return status;
      bytes += piece;
    } while (!piece.empty());
    return bytes;
  }

  absl::StatusOr<v1::StreamInfo> Fork(const std::string& id, const std::string& child,
                                      std::optional<uint64_t> position = std::nullopt) {
    v1::ForkStreamRequest request;
    request.set_stream_id(id);
    request.set_new_stream_id(child);
    request.set_request_id("fork-" + child);
    if (position.has_value()) request.set_at_position(*position);
    return store_->Fork(request);
  }
  absl::StatusOr<v1::StreamInfo> Rewind(const std::string& id, uint64_t position) {
    v1::RewindStreamRequest request;
    request.set_stream_id(id);
    request.set_position(position);
    return store_->Rewind(request);
  }

  v1::StreamInfo Info(const std::string& id) {
    auto info = store_->Describe(id);
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? *info : v1::StreamInfo();
  }
  std::vector<std::string> Files(const std::string& part) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/" + part)) {
      names.push_back(entry.path().filename());
    }
    return names;
  }
  // Collects and expects that records, references, files and logs agree.
  void ExpectClean() {
    ASSERT_TRUE(store_->CollectNow().ok());
    auto problems = store_->Audit();
    ASSERT_TRUE(problems.ok()) << problems.status();
    EXPECT_THAT(*problems, ::testing::IsEmpty());
  }

  const std::string folder_;
  memory::FakeClock clock_;
  memory::FaultFileEnv files_{*memory::FileEnv::Real()};
  StoreOptions options_;
  std::unique_ptr<StreamStore> store_;
};

// EXPECT_REFUSED(status, kNotFound, "words"): code and part of the message.
#define EXPECT_REFUSED(status_or, code_name, words)                                \
  do {                                                                             \
    const absl::Status lola_refused = (status_or);                                 \
    EXPECT_EQ(lola_refused.code(), absl::StatusCode::code_name) << lola_refused;   \
    EXPECT_THAT(std::string(lola_refused.message()), ::testing::HasSubstr(words)); \
  } while (false)

}  // namespace lola::store

#endif  // LOLA_TESTS_MEMORY_STORE_STORE_FIXTURE_H_
