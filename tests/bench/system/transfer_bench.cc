// GB/s of a state on its way to the shard and back, the path a worker uses: SnapshotWriter, shard
// client, PutSnapshot / GetSnapshot of a shard service over a loopback socket, store,
// SnapshotReader. Beside it, in turns within the same run: memcpy of the same bytes, the same bytes
// through the same RPCs of a gRPC server that drops them (raw_stream.h), and a file write + sync of
// them.
//
//   transfer_bench [--smoke] [--rounds N] [--folder DIR]
//
// A put ends when the snapshot is durable and visible; a get when the record's digest was
// recomputed and compared. Before timing, a state makes the round trip and must come back byte for
// byte.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <string>
#include <vector>

#include "memory/env/file_env.h"
#include "memory/env/random.h"
#include "memory/snapshot/reader.h"
#include "memory/snapshot/writer.h"
#include "memory/stream/stream_state.h"
#include "tests/bench/system/loopback_shard.h"
#include "tests/bench/system/raw_stream.h"

namespace lola::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kPosition = 10;  // below the first chunk event: the counters stay 0
constexpr char kStream[] = "transfer";
constexpr char kModel[] = "0123456789abcdef0123456789abcdef";

double Seconds(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class WriterBlob final : public engine::SnapshotBlob {
 public:
  explicit WriterBlob(memory::SnapshotWriter writer) : writer_(std::move(writer)) {}
  uint64_t size_bytes() const override { return writer_.size_bytes(); }
  std::span<const std::byte> Piece(uint64_t offset, size_t max_bytes) const override {
    return writer_.Piece(offset, max_bytes);
  }
  const memory::SnapshotWriter& writer() const { return writer_; }

 private:
  const memory::SnapshotWriter writer_;
};

class TransferBench {
 public:
  TransferBench(const std::string& folder, const memory::ModelGeometry& geometry)
      : folder_(folder),
        identity_{kModel, geometry, memory::LolaSettings::LifelongProfile()},
        layout_(geometry, identity_.settings),
        record_(layout_.stride_bytes()),
        restored_(layout_.stride_bytes()),
        loopback_(folder + "/shard"),
        raw_(memory::kSnapshotChunkBytes) {
    FillRecord();
    OwnStream();
    CheckRoundTrip();
  }

  size_t bytes() const { return record_.size(); }

  struct Row {
    std::vector<double> copy, raw_up, raw_file, put, raw_down, get;  // seconds
  };
  Row Measure(int rounds) {
    Row row;
    for (int i = 0; i < rounds; ++i) {
      row.copy.push_back(
          Seconds([&] { std::copy(record_.begin(), record_.end(), copy_.begin()); }));
      row.raw_up.push_back(raw_.Upload(Chars()));
      row.raw_file.push_back(Seconds([&] { WriteFile(); }));
      record_.back() ^= std::byte{1};  // an equal snapshot would not be stored again
      row.put.push_back(Seconds([&] { blob_id_ = Put(); }));
      row.raw_down.push_back(raw_.Download(Chars()));
      row.get.push_back(Seconds([&] { Get(); }));
    }
    return row;
  }

 private:
  std::span<const char> Chars() const {
    return {reinterpret_cast<const char*>(record_.data()), record_.size()};
  }

  // A valid header and valid counters; everything else random.
  void FillRecord() {
    std::array<std::byte, 16> model;
    const auto hash = Check(memory::HashFromHex(kModel, "model"));
    std::memcpy(model.data(), hash.data(), model.size());
    memory::StreamState state(&layout_, record_);
    state.Reset(model);
    state.SetPosition(kPosition);
    uint64_t x = 1;
    for (uint32_t i = 0; i < layout_.geometry().layers; ++i) {
      for (size_t at = layout_.layer(i).s; at + 8 <= layout_.layer(i).cache_meta; at += 8) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        std::memcpy(&record_[at], &x, 8);
      }
    }
    copy_.assign(record_.size(), std::byte{0});
  }

  void OwnStream() {
    engine::StreamBackend& client = *loopback_.client();
    Await<engine::StreamRecord>([&](auto done) {
      client.Create({.stream_id = kStream,
                     .model_fingerprint = kModel,
                     .settings = identity_.settings,
                     .state_bytes = record_.size()},
                    done);
    });
    epoch_ = Await<engine::AcquiredStream>([&](auto done) {
               client.Acquire({.stream_id = kStream, .model_fingerprint = kModel}, done);
             }).epoch;
    auto batch = std::make_shared<engine::AppendBatch>();
    batch->entries.push_back(
        {kStream, epoch_, {{0, engine::TokenAuthor::kClient, std::vector<int32_t>(kPosition, 1)}}});
    const auto results =
        Await<std::vector<engine::AppendResult>>([&](auto done) { client.Append(0, batch, done); });
    Check(results.at(0).status);
  }

  std::string Put() {
    auto blob = std::make_shared<WriterBlob>(
        Check(memory::SnapshotWriter::Create(identity_, layout_, record_)));
    engine::PutSnapshotRequest request;
    request.stream_id = kStream;
    request.epoch = epoch_;
    request.position = kPosition;
    const memory::Hash128& digest = blob->writer().digest();
    request.digest.assign(reinterpret_cast<const char*>(digest.data()), digest.size());
    request.blob = blob;
    return Await<engine::SnapshotRecord>(
               [&](auto done) { loopback_.client()->PutSnapshot(request, done); })
        .blob_id;
  }

  // Ends the program unless the digest recomputed from the restored record is the stored one.
  void Get() {
    memory::SnapshotReader reader(identity_, layout_, restored_, kPosition);
    std::promise<absl::Status> ended;
    loopback_.client()->GetSnapshot(
        kStream, blob_id_, [&](std::span<const std::byte> bytes) { return reader.Feed(bytes); },
        [&](absl::Status status) {
          if (status.ok()) status = reader.Finish().status();
          ended.set_value(status);
        });
    Check(ended.get_future().get());
  }

  void CheckRoundTrip() {
    blob_id_ = Put();
    Get();
    if (restored_ != record_) Fail("the state came back with other bytes");
  }

  void WriteFile() {
    memory::FileEnv& env = *memory::FileEnv::Real();
    const std::string path = folder_ + "/raw";
    auto file = Check(env.NewFile(path));
    const std::string_view all(Chars().data(), record_.size());
    for (size_t at = 0; at < all.size(); at += memory::kSnapshotChunkBytes) {
      Check(file->Append(all.substr(at, memory::kSnapshotChunkBytes)));
    }
    Check(file->Sync());
    Check(file->Close());
    Check(env.Remove(path));
  }

  const std::string folder_;
  const memory::SnapshotIdentity identity_;
  const memory::StateLayout layout_;
  std::vector<std::byte> record_, copy_, restored_;
  LoopbackShard loopback_;
  RawStream raw_;
  uint64_t epoch_ = 0;
  std::string blob_id_;
};

double Rate(size_t bytes, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return static_cast<double>(bytes) / seconds[seconds.size() / 2] * 1e-9;
}

// One KV head of the reference model's kind, or the heads of Llama-3.2-1B, in `layers` layers.
memory::ModelGeometry Geometry(uint32_t layers, bool small) {
  memory::ModelGeometry g{.layers = layers,
                          .hidden = 2048,
                          .query_heads = 32,
                          .kv_heads = 8,
                          .head_dim = 64,
                          .feature_dim = 128,
                          .ffn = 8192,
                          .vocab = 128256};
  if (small) {
    g = {.layers = layers,
         .hidden = 128,
         .query_heads = 4,
         .kv_heads = 4,
         .head_dim = 32,
         .feature_dim = 64,
         .ffn = 352,
         .vocab = 264};
  }
  return g;
}

int Main(bool smoke, int rounds, const std::string& parent) {
  const std::string folder = parent + "/lola_transfer_" + memory::NewUid();
  std::printf(
      "GB/s, medians of %d rounds in turns, messages of %zu KiB\n\n"
      "| state MiB | memcpy | raw gRPC up | file + sync | snapshot | of raw | raw gRPC down | "
      "restore | of raw |\n|---|---|---|---|---|---|---|---|---|\n",
      rounds, memory::kSnapshotChunkBytes >> 10);
  std::vector<memory::ModelGeometry> geometries = {Geometry(4, true)};
  if (!smoke) {
    geometries.push_back(Geometry(4, false));
    geometries.push_back(Geometry(36, false));
  }
  for (size_t i = 0; i < geometries.size(); ++i) {
    const std::string place = folder + "/" + std::to_string(i);
    std::filesystem::create_directories(place);
    TransferBench bench(place, geometries[i]);
    bench.Measure(1);  // first touch, connections, file system
    const TransferBench::Row row = bench.Measure(rounds);
    const auto rate = [&](const std::vector<double>& s) { return Rate(bench.bytes(), s); };
    std::printf("| %.1f | %.1f | %.2f | %.2f | %.2f | %.0f %% | %.2f | %.2f | %.0f %% |\n",
                static_cast<double>(bench.bytes()) / (1 << 20), rate(row.copy), rate(row.raw_up),
                rate(row.raw_file), rate(row.put), 100 * rate(row.put) / rate(row.raw_up),
                rate(row.raw_down), rate(row.get), 100 * rate(row.get) / rate(row.raw_down));
    std::fflush(stdout);
  }
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace lola::bench

int main(int argc, char** argv) {
  bool smoke = false;
  int rounds = 15;
  std::string folder = std::filesystem::temp_directory_path();
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--smoke") {
      smoke = true;
      rounds = 3;
    } else if (flag == "--rounds" && i + 1 < argc) {
      rounds = std::max(1, std::atoi(argv[++i]));
    } else if (flag == "--folder" && i + 1 < argc) {
      folder = argv[++i];
    } else {
      std::printf("usage: transfer_bench [--smoke] [--rounds N] [--folder DIR]\n");
      return flag == "--help" ? 0 : 2;
    }
  }
  lola::rpc::PrepareProcess();  // the servers' malloc settings
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);  // but Ctrl-C ends a benchmark
  return lola::bench::Main(smoke, rounds, folder);
}
