#include "tests/e2e/crash/script.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lola::crash {
namespace {

constexpr size_t kAutomaticKept = 2;

std::vector<int32_t> MakeTokens(uint64_t from, uint64_t count, int32_t salt) {
  std::vector<int32_t> ids;
  for (uint64_t i = 0; i < count; ++i) ids.push_back(int32_t((from + i) * 7 % 50'000) + salt);
  return ids;
}

void ApplyRetention(Stream& stream) {
  size_t kept = 0;
  for (auto it = stream.snapshots.end(); it != stream.snapshots.begin();) {
    --it;
    if (it->second.empty() && ++kept > kAutomaticKept) it = stream.snapshots.erase(it);
  }
}

Operation Create(const std::string& id) {
  return {"create " + id,
          [id](store::StreamStore& store, const Model&) {
            v1::CreateStreamRequest request;
            request.set_stream_id(id);
            request.set_request_id("create " + id);
            return store.Create(request).status();
          },
          [id](Model& model) { model[id]; }};
}

Operation Acquire(const std::string& id) {
  return {"acquire " + id,
          [id](store::StreamStore& store, const Model&) {
            v1::AcquireRequest request;
            request.set_stream_id(id);
            request.set_worker("worker");
            request.set_worker_instance("instance");
            request.set_lease_ms(60'000);
            return store.Acquire(request).status();
          },
          [id](Model& model) {
            ++model[id].epoch;
            model[id].owned = true;
          }};
}

Operation Release(const std::string& id) {
  return {"release " + id,
          [id](store::StreamStore& store, const Model& model) {
            v1::ReleaseRequest request;
            request.set_stream_id(id);
            request.set_epoch(model.at(id).epoch);
            return store.Release(request);
          },
          [id](Model& model) { model[id].owned = false; }};
}

// Appends to all of `ids` in one batch.
Operation Append(const std::vector<std::string>& ids, uint64_t from, uint64_t count, int32_t salt) {
  return {absl::StrCat("append ", ids.front(), " ", from, " +", count),
          [=](store::StreamStore& store, const Model& model) -> absl::Status {
            v1::AppendBatchRequest request;
            for (const std::string& id : ids) {
              v1::AppendEntry& entry = *request.add_entries();
              entry.set_stream_id(id);
              entry.set_epoch(model.at(id).epoch);
              v1::TokenRun& run = *entry.add_runs();
              run.set_position(from);
              run.set_author(v1::TOKEN_AUTHOR_MODEL);
              const auto tokens = MakeTokens(from, count, salt);
              run.mutable_ids()->Add(tokens.begin(), tokens.end());
            }
            auto reply = store.Append(request);
            if (!reply.ok()) return reply.status();
            for (const auto& result : reply->results()) {
              if (result.code() != 0) {
                return absl::Status(absl::StatusCode(result.code()), result.message());
              }
            }
            return absl::OkStatus();
          },
          [=](Model& model) {
            for (const std::string& id : ids) {
              auto& tokens = model[id].tokens;
              const auto added = MakeTokens(from, count, salt);
              tokens.insert(tokens.end(), added.begin(), added.end());
            }
          }};
}

Operation Put(const std::string& id, uint64_t position, const std::string& name) {
  return {absl::StrCat("put ", id, " ", position, " ", name),
          [=](store::StreamStore& store, const Model& model) -> absl::Status {
            const std::string bytes = SnapshotBytes(position);
            v1::PutSnapshotHeader header;
            header.set_stream_id(id);
            header.set_epoch(model.at(id).epoch);
            header.set_position(position);
            header.set_digest(std::string(16, 'd'));
            header.set_size_bytes(bytes.size());
            header.set_name(name);
            auto upload = store.PutSnapshot(header);
            if (!upload.ok()) return upload.status();
            if (absl::Status status = (*upload)->Write(bytes); !status.ok()) return status;
            return (*upload)->Commit().status();
          },
          [=](Model& model) {
            model[id].snapshots.emplace(position, name);
            ApplyRetention(model[id]);
          }};
}

Operation Fork(const std::string& id, const std::string& child, uint64_t position) {
  return {absl::StrCat("fork ", id, " ", child, " ", position),
          [=](store::StreamStore& store, const Model&) {
            v1::ForkStreamRequest request;
            request.set_stream_id(id);
            request.set_new_stream_id(child);
            request.set_at_position(position);
            request.set_request_id("fork " + child);
            return store.Fork(request).status();
          },
          [=](Model& model) {
            const Stream& parent = model[id];
            Stream made;
            made.tokens.assign(parent.tokens.begin(), parent.tokens.begin() + ptrdiff_t(position));
            for (const auto& [at, name] : parent.snapshots) {
              if (at <= position) made.snapshots.emplace(at, "");
            }
            ApplyRetention(made);
            model[child] = made;
          }};
}

Operation Rewind(const std::string& id, uint64_t position) {
  return {absl::StrCat("rewind ", id, " ", position),
          [=](store::StreamStore& store, const Model&) {
            v1::RewindStreamRequest request;
            request.set_stream_id(id);
            request.set_position(position);
            return store.Rewind(request).status();
          },
          [=](Model& model) {
            Stream& stream = model[id];
            stream.tokens.resize(position);
            stream.snapshots.erase(stream.snapshots.upper_bound(position), stream.snapshots.end());
            ++stream.epoch;
            stream.owned = false;
          }};
}

Operation Delete(const std::string& id) {
  return {"delete " + id,
          [id](store::StreamStore& store, const Model&) {
            const absl::Status status = store.Delete(id);
            return absl::IsNotFound(status) ? absl::OkStatus() : status;  // a retry
          },
          [id](Model& model) { model.erase(id); }};
}

Operation Collect() {
  return {"collect", [](store::StreamStore& store, const Model&) { return store.CollectNow(); },
          [](Model&) {}};
}

}  // namespace

std::string SnapshotBytes(uint64_t position) {
  std::string bytes;
  for (uint64_t i = 0; i < 20'000; ++i) bytes += char(i * (position + 3) >> 4);
  return bytes;
}

store::StoreOptions ScriptOptions(const std::string& folder) {
  store::StoreOptions options;
  options.directory = folder;
  options.collect_every_ms = 0;
  options.automatic_snapshots_kept = kAutomaticKept;
  return options;
}

std::vector<Operation> Script() {
  return {
      Create("a"),
      Acquire("a"),
      Append({"a"}, 0, 1500, 0),
      Put("a", 500, ""),
      Put("a", 1000, ""),
      Put("a", 1200, "kept"),
      Append({"a"}, 1500, 1, 0),
      Append({"a"}, 1501, 299, 0),
      Put("a", 1600, ""),  // retention drops 500
      Collect(),
      Fork("a", "b", 1300),
      Acquire("b"),
      Append({"b"}, 1300, 900, 60'000),
      Rewind("a", 1100),  // the log is shared: a new one
      Acquire("a"),
      Append({"a"}, 1100, 40, 70'000),
      Rewind("b", 2000),  // alone: cut in place
      Acquire("b"),
      Append({"b"}, 2000, 5, 80'000),
      Put("b", 2005, ""),
      Collect(),
      Create("c"),
      Acquire("c"),
      Append({"c"}, 0, 1100, 0),
      Fork("c", "d", 1100),
      Release("c"),
      Delete("c"),  // its log lives on in d
      Collect(),
      Delete("b"),
      Collect(),
      Rewind("d", 50),  // goes on in the log that c wrote
      Acquire("d"),
      Append({"d"}, 50, 2100, 90'000),
      Delete("a"),
      Collect(),
  };
}

absl::StatusOr<Model> ReadModel(store::StreamStore& store) {
  Model model;
  auto list = store.List(v1::ListStreamsRequest());
  if (!list.ok()) return list.status();
  for (const v1::StreamInfo& info : list->streams()) {
    Stream& stream = model[info.stream_id()];
    stream.epoch = info.owner_epoch();
    stream.owned = !info.owner().empty();
    v1::ReadTokensRequest read;
    read.set_stream_id(info.stream_id());
    auto reader = store.ReadTokens(read);
    if (!reader.ok()) return reader.status();
    v1::TokenRun run;
    for (;;) {
      auto more = (*reader)->Next(&run);
      if (!more.ok()) return more.status();
      if (!*more) break;
      stream.tokens.insert(stream.tokens.end(), run.ids().begin(), run.ids().end());
    }
    for (const v1::SnapshotInfo& snapshot : info.snapshots()) {
      stream.snapshots.emplace(snapshot.position(), snapshot.name());
      v1::GetSnapshotRequest get;
      get.set_stream_id(info.stream_id());
      get.set_blob_id(snapshot.blob_id());
      auto download = store.GetSnapshot(get);
      if (!download.ok()) return download.status();
      std::string bytes, piece;
      do {
        if (absl::Status status = (*download)->Next(1 << 20, &piece); !status.ok()) return status;
        bytes += piece;
      } while (!piece.empty());
      if (bytes != SnapshotBytes(snapshot.position())) {
        return absl::DataLossError(absl::StrCat("snapshot at ", snapshot.position(), " of ",
                                                info.stream_id(), " has other bytes"));
      }
    }
  }
  return model;
}

}  // namespace lola::crash
