// A shard behind an in-process channel.
#ifndef LOLA_TESTS_SERVICES_MEMORY_SHARD_FIXTURE_H_
#define LOLA_TESTS_SERVICES_MEMORY_SHARD_FIXTURE_H_

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "lola/v1/memory.grpc.pb.h"
#include "memory/env/failpoint.h"
#include "memory/env/random.h"
#include "memory/snapshot/preface.h"
#include "services/memory/shard_service.h"

namespace lola::shard {

class ShardTest : public ::testing::Test {
 protected:
  ShardTest()
      : folder_(std::filesystem::temp_directory_path() / ("lola_shard_" + memory::NewUid())) {
    options_.store.directory = folder_;
    options_.store.collect_every_ms = 0;
  }
  ~ShardTest() override {
    EXPECT_TRUE(memory::ArmFailpoints("").ok());
    StopShard();
    std::filesystem::remove_all(folder_);
  }

  void StartShard() {
    auto shard = ShardService::Create(options_);
    ASSERT_TRUE(shard.ok()) << shard.status();
    shard_ = *std::move(shard);
    grpc::ServerBuilder builder;
    builder.RegisterService(shard_->service());
    builder.SetMaxReceiveMessageSize(8 << 20);
    server_ = builder.BuildAndStart();
    stub_ = v1::Memory::NewStub(server_->InProcessChannel({}));
  }
  void StopShard() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    if (shard_ != nullptr) shard_->Stop();
    stub_.reset();
    server_.reset();
    shard_.reset();
  }

  grpc::Status Create(const std::string& id) {
    grpc::ClientContext context;
    v1::CreateStreamRequest request;
    request.set_stream_id(id);
    request.set_model_fingerprint("model");
    v1::StreamInfo info;
    return stub_->Create(&context, request, &info);
  }
  grpc::Status Describe(const std::string& id, v1::StreamInfo* info) {
    grpc::ClientContext context;
    v1::DescribeStreamRequest request;
    request.set_stream_id(id);
    return stub_->Describe(&context, request, info);
  }
  grpc::Status Acquire(const std::string& id, const std::string& worker, v1::AcquireReply* reply) {
    grpc::ClientContext context;
    v1::AcquireRequest request;
    request.set_stream_id(id);
    request.set_worker(worker);
    request.set_worker_instance(worker);
    request.set_lease_ms(60'000);
    request.set_model_fingerprint("model");
    return stub_->Acquire(&context, request, reply);
  }
  grpc::Status Append(const std::string& id, uint64_t epoch, uint64_t position, int count,
                      v1::AppendBatchReply* reply) {
    grpc::ClientContext context;
    v1::AppendBatchRequest request;
    v1::AppendEntry& entry = *request.add_entries();
    entry.set_stream_id(id);
    entry.set_epoch(epoch);
    v1::TokenRun& run = *entry.add_runs();
    run.set_position(position);
    run.set_author(v1::TOKEN_AUTHOR_CLIENT);
    for (int i = 0; i < count; ++i) run.add_ids(int32_t(position) + i);
    return stub_->Append(&context, request, reply);
  }

  // A whole snapshot blob, as memory/snapshot/FORMAT.md says.
  struct Blob {
    v1::PutSnapshotHeader header;
    std::string bytes;
  };
  static Blob MakeBlob(const std::string& id, uint64_t epoch, uint64_t position, size_t record) {
    std::string state(record, ' ');
    for (size_t i = 0; i < record; ++i) state[i] = char(i * 31 >> 3);
    const auto bytes = std::as_bytes(std::span(state.data(), state.size()));
    memory::Preface preface;
    preface.position = position;
    preface.record_bytes = record;
    preface.digest = memory::HashOf(bytes);
    preface.sections = {{"header", 0, record, memory::HashOf(bytes)}};
    Blob blob;
    blob.bytes = memory::EncodePreface(preface) + state;
    blob.header.set_stream_id(id);
    blob.header.set_epoch(epoch);
    blob.header.set_position(position);
    blob.header.set_digest(preface.digest.data(), preface.digest.size());
    blob.header.set_size_bytes(blob.bytes.size());
    return blob;
  }
  grpc::Status Put(const Blob& blob, v1::SnapshotInfo* info, size_t piece = 256 << 10) {
    grpc::ClientContext context;
    auto writer = stub_->PutSnapshot(&context, info);
    v1::PutSnapshotRequest request;
    *request.mutable_header() = blob.header;
    bool open = writer->Write(request);
    for (size_t at = 0; open && at < blob.bytes.size(); at += piece) {
      request.set_data(blob.bytes.substr(at, piece));
      open = writer->Write(request);
    }
    writer->WritesDone();
    return writer->Finish();
  }
  grpc::Status Get(const std::string& id, const std::string& blob_id, std::string* bytes) {
    grpc::ClientContext context;
    v1::GetSnapshotRequest request;
    request.set_stream_id(id);
    request.set_blob_id(blob_id);
    auto reader = stub_->GetSnapshot(&context, request);
    v1::SnapshotChunk chunk;
    while (reader->Read(&chunk)) *bytes += chunk.data();
    return reader->Finish();
  }

  const std::string folder_;
  ShardOptions options_;
  std::unique_ptr<ShardService> shard_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Memory::Stub> stub_;
};

#define EXPECT_CALL_FAILS(call, code, words)                                                    \
  do {                                                                                          \
    const grpc::Status lola_status = (call);                                                    \
    EXPECT_EQ(lola_status.error_code(), grpc::StatusCode::code) << lola_status.error_message(); \
    EXPECT_THAT(lola_status.error_message(), ::testing::HasSubstr(words));                      \
  } while (false)

}  // namespace lola::shard

#endif  // LOLA_TESTS_SERVICES_MEMORY_SHARD_FIXTURE_H_
