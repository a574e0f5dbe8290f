#include "tests/bench/store/store_bench_rows.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>

#include "memory/env/file_env.h"
#include "memory/store/stream_store.h"

namespace lola::bench {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "FAILED %s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T Check(absl::StatusOr<T> result) {
  Check(result.status());
  return *std::move(result);
}

Rate Summary(std::vector<double> seconds_per_call, double seconds, double operations_per_call) {
  std::sort(seconds_per_call.begin(), seconds_per_call.end());
  const size_t n = seconds_per_call.size();
  return {double(n) * operations_per_call / seconds, seconds_per_call[n / 2] * 1e6,
          seconds_per_call[n - 1 - n / 100] * 1e6};
}

// Calls `call` for about `seconds`, at least a few times.
Rate Repeat(double seconds, double operations_per_call, const std::function<void()>& call) {
  std::vector<double> each;
  const auto start = Clock::now();
  while (each.size() < 10 || SecondsSince(start) < seconds) {
    const auto begin = Clock::now();
    call();
    each.push_back(SecondsSince(begin));
  }
  return Summary(std::move(each), SecondsSince(start), operations_per_call);
}

std::unique_ptr<store::StreamStore> OpenStore(const std::string& folder) {
  store::StoreOptions options;
  options.directory = folder;
  options.collect_every_ms = 0;
  return Check(store::StreamStore::Open(options));
}

uint64_t MakeOwned(store::StreamStore& store, const std::string& id) {
  v1::CreateStreamRequest create;
  create.set_stream_id(id);
  Check(store.Create(create));
  v1::AcquireRequest acquire;
  acquire.set_stream_id(id);
  acquire.set_worker("bench");
  acquire.set_worker_instance("bench");
  acquire.set_lease_ms(600'000);
  return Check(store.Acquire(acquire)).epoch();
}

v1::AppendBatchRequest OneTokenEach(const std::vector<std::string>& ids, bool durable) {
  v1::AppendBatchRequest request;
  request.set_durability(durable ? v1::DURABILITY_LOCAL : v1::DURABILITY_NONE);
  for (const std::string& id : ids) {
    v1::AppendEntry& entry = *request.add_entries();
    entry.set_stream_id(id);
    entry.set_epoch(1);
    v1::TokenRun& run = *entry.add_runs();
    run.set_author(v1::TOKEN_AUTHOR_MODEL);
    run.add_ids(1234);
  }
  return request;
}

void AppendAt(store::StreamStore& store, uint64_t position, v1::AppendBatchRequest* request) {
  for (auto& entry : *request->mutable_entries()) {
    entry.mutable_runs(0)->set_position(position);
  }
  const auto reply = Check(store.Append(*request));
  for (const auto& result : reply.results()) {
    if (result.code() != 0) Check(absl::InternalError(result.message()));
  }
}

void PutSnapshot(store::StreamStore& store, const std::string& id, std::string_view bytes) {
  constexpr size_t kPiece = 512 << 10;
  v1::PutSnapshotHeader header;
  header.set_stream_id(id);
  header.set_epoch(1);
  header.set_digest(std::string(16, 'd'));
  header.set_size_bytes(bytes.size());
  static int names = 0;  // so that no put is taken for a retry of the one before
  header.set_name("n" + std::to_string(names++));
  auto upload = Check(store.PutSnapshot(header));
  for (size_t at = 0; at < bytes.size(); at += kPiece) {
    Check(upload->Write(bytes.substr(at, kPiece)));
  }
  Check(upload->Commit());
}

// Copies the snapshot out, as a worker's arena would receive it.
void GetSnapshot(store::StreamStore& store, const std::string& id, const std::string& blob_id,
                 std::string* out) {
  v1::GetSnapshotRequest request;
  request.set_stream_id(id);
  request.set_blob_id(blob_id);
  auto download = Check(store.GetSnapshot(request));
  std::string piece;
  size_t at = 0;
  do {
    Check(download->Next(512 << 10, &piece));
    std::memcpy(out->data() + at, piece.data(), piece.size());
    at += piece.size();
  } while (!piece.empty());
}

double MedianRate(size_t bytes, int rounds, const std::function<void(int)>& body) {
  std::vector<double> rates;
  for (int i = 0; i < rounds; ++i) {
    const auto start = Clock::now();
    body(i);
    rates.push_back(double(bytes) / SecondsSince(start));
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

}  // namespace

Rate RawSyncedAppends(const std::string& folder, size_t bytes, double seconds) {
  memory::FileEnv& env = *memory::FileEnv::Real();
  Check(env.MakeFolder(folder));
  auto file = Check(env.NewFile(folder + "/raw"));
  const std::string data(bytes, 'x');
  return Repeat(seconds, 1, [&] {
    Check(file->Append(data));
    Check(file->Sync());
  });
}

Rate BatchAppends(const std::string& folder, size_t streams, bool durable, double seconds) {
  auto store = OpenStore(folder);
  std::vector<std::string> ids;
  for (size_t i = 0; i < streams; ++i) {
    ids.push_back("s" + std::to_string(i));
    MakeOwned(*store, ids.back());
  }
  auto request = OneTokenEach(ids, durable);
  uint64_t position = 0;
  return Repeat(seconds, double(streams), [&] { AppendAt(*store, position++, &request); });
}

Rate ConcurrentAppends(const std::string& folder, size_t callers, double seconds) {
  auto store = OpenStore(folder);
  std::vector<Rate> rates(callers);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < callers; ++i) MakeOwned(*store, "s" + std::to_string(i));
  for (size_t i = 0; i < callers; ++i) {
    threads.emplace_back([&, i] {
      auto request = OneTokenEach({"s" + std::to_string(i)}, true);
      uint64_t position = 0;
      rates[i] = Repeat(seconds, 1, [&] { AppendAt(*store, position++, &request); });
    });
  }
  Rate sum;
  for (size_t i = 0; i < callers; ++i) {
    threads[i].join();
    sum.per_second += rates[i].per_second;
    sum.p50_us += rates[i].p50_us / double(callers);
    sum.p99_us = std::max(sum.p99_us, rates[i].p99_us);
  }
  return sum;
}

Rate Forks(const std::string& folder, size_t bytes, size_t forks) {
  auto store = OpenStore(folder);
  MakeOwned(*store, "s");
  auto request = OneTokenEach({"s"}, true);
  request.mutable_entries(0)->mutable_runs(0)->mutable_ids()->Resize(4096, 7);
  AppendAt(*store, 0, &request);
  PutSnapshot(*store, "s", std::string(bytes, 'x'));
  std::vector<double> each;
  const auto start = Clock::now();
  for (size_t i = 0; i < forks; ++i) {
    v1::ForkStreamRequest fork;
    fork.set_stream_id("s");
    fork.set_new_stream_id("f" + std::to_string(i));
    const auto begin = Clock::now();
    Check(store->Fork(fork));
    each.push_back(SecondsSince(begin));
  }
  const double seconds = SecondsSince(start);
  if (store->Stats().blob_bytes != bytes) Check(absl::InternalError("forks copied blobs"));
  return Summary(std::move(each), seconds, 1);
}

Throughput Snapshots(const std::string& folder, size_t bytes, int rounds) {
  memory::FileEnv& env = *memory::FileEnv::Real();
  auto store = OpenStore(folder);
  MakeOwned(*store, "s");
  std::string data(bytes, 'x');
  for (size_t i = 0; i < bytes; i += 64) data[i] = char(i >> 6);
  std::string out(bytes, ' ');
  Throughput result;
  result.memcpy =
      MedianRate(bytes, rounds, [&](int) { std::memcpy(out.data(), data.data(), bytes); });
  const auto raw_path = [&](int i) { return folder + "/raw" + std::to_string(i); };
  result.raw_write = MedianRate(bytes, rounds, [&](int i) {
    auto file = Check(env.NewFile(raw_path(i)));
    for (size_t at = 0; at < bytes; at += 1 << 20) {
      Check(file->Append(std::string_view(data).substr(at, 1 << 20)));
    }
    Check(file->Sync());
  });
  result.raw_read = MedianRate(bytes, rounds, [&](int i) {
    Check(Check(env.OpenFile(raw_path(i)))->Read(0, std::span(out.data(), out.size())));
  });
  for (int i = 0; i < rounds; ++i) Check(env.Remove(raw_path(i)));
  result.put = MedianRate(bytes, rounds, [&](int) { PutSnapshot(*store, "s", data); });
  const auto info = Check(store->Describe("s"));
  std::fill(out.begin(), out.end(), ' ');
  GetSnapshot(*store, "s", info.snapshots(0).blob_id(), &out);
  if (out != data) Check(absl::DataLossError("a snapshot came back with other bytes"));
  result.get = MedianRate(bytes, rounds, [&](int i) {
    GetSnapshot(*store, "s", info.snapshots(i % info.snapshots_size()).blob_id(), &out);
  });
  return result;
}

}  // namespace lola::bench
