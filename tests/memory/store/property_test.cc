// Random histories against a model of plain vectors: after every step and every restart the store
// says what the model says.
#include <map>
#include <random>

#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

struct ModelStream {
  std::vector<int32_t> tokens;
  std::map<std::string, std::pair<uint64_t, std::string>> named;  // name -> position, bytes
  uint64_t epoch = 0;
  bool owned = false;
};

class PropertyTest : public StoreTest {
 protected:
  std::string Pick() {
    auto it = model_.begin();
    std::advance(it, ptrdiff_t(random_() % model_.size()));
    return it->first;
  }

  void Step(int step) {
    if (model_.empty()) return MakeStream("s" + std::to_string(step));
    const std::string id = Pick();
    ModelStream& stream = model_[id];
    switch (random_() % 10) {
      case 0:
        return MakeStream("s" + std::to_string(step));
      case 1: {
        stream.epoch = Acquire(id);
        stream.owned = true;
        return;
      }
      case 2:
        return ForkStream(id, "f" + std::to_string(step));
      case 3:
        return RewindStream(id);
      case 4:
        return Snapshot(id, "n" + std::to_string(step));
      case 5:
        if (model_.size() < 4) return;
        ASSERT_TRUE(store_->Delete(id).ok());
        model_.erase(id);
        return;
      default:
        return AppendTokens(id);
    }
  }

  void MakeStream(const std::string& id) {
    Create(id);
    model_[id];
  }

  void AppendTokens(const std::string& id) {
    ModelStream& stream = model_[id];
    const std::vector<int32_t> ids = Count(int32_t(random_() % 100'000), 1 + random_() % 1500);
    const uint64_t back = std::min<uint64_t>(stream.tokens.size(), random_() % 3);
    const uint64_t base = stream.tokens.size() - back;  // some tokens are there already
    std::vector<int32_t> sent(stream.tokens.begin() + ptrdiff_t(base), stream.tokens.end());
    sent.insert(sent.end(), ids.begin(), ids.end());
    const absl::Status status = Append(id, stream.epoch, base, sent);
    if (!stream.owned) {
      ASSERT_EQ(status.code(), absl::StatusCode::kAborted);
      return;
    }
    ASSERT_TRUE(status.ok()) << status;
    stream.tokens.insert(stream.tokens.end(), ids.begin(), ids.end());
  }

  void ForkStream(const std::string& id, const std::string& child) {
    const ModelStream& parent = model_[id];
    const uint64_t position = random_() % (parent.tokens.size() + 1);
    ASSERT_TRUE(Fork(id, child, position).ok());
    ModelStream made;
    made.tokens.assign(parent.tokens.begin(), parent.tokens.begin() + ptrdiff_t(position));
    model_[child] = made;
  }

  void RewindStream(const std::string& id) {
    ModelStream& stream = model_[id];
    const uint64_t position = random_() % (stream.tokens.size() + 1);
    const auto info = Rewind(id, position);
    ASSERT_TRUE(info.ok()) << info.status();
    stream.tokens.resize(position);
    stream.owned = false;
    stream.epoch = info->owner_epoch();
    std::erase_if(stream.named, [&](const auto& entry) { return entry.second.first > position; });
  }

  void Snapshot(const std::string& id, const std::string& name) {
    ModelStream& stream = model_[id];
    const uint64_t position = random_() % (stream.tokens.size() + 1);
    const std::string bytes(1 + random_() % 5000, char('a' + random_() % 26));
    if (!stream.owned) return;
    ASSERT_TRUE(Put(id, stream.epoch, position, bytes, name).ok());
    stream.named[name] = {position, bytes};
  }

  void ExpectAsModel() {
    v1::ListStreamsRequest list;
    list.set_page_size(1000);
    EXPECT_EQ(size_t(store_->List(list)->streams_size()), model_.size());
    for (const auto& [id, stream] : model_) {
      const v1::StreamInfo info = Info(id);
      ASSERT_EQ(info.committed_position(), stream.tokens.size()) << id;
      ASSERT_EQ(info.owner_epoch(), stream.epoch) << id;
      ASSERT_EQ(!info.owner().empty(), stream.owned) << id;
      ASSERT_EQ(Tokens(id), stream.tokens) << id;
      size_t named = 0;
      for (const auto& snapshot : info.snapshots()) {
        if (snapshot.name().empty()) continue;
        ++named;
        const auto found = stream.named.find(snapshot.name());
        ASSERT_NE(found, stream.named.end()) << id << " " << snapshot.name();
        ASSERT_EQ(*Get(id, snapshot.blob_id()), found->second.second);
      }
      ASSERT_EQ(named, stream.named.size()) << id;
    }
  }

  std::mt19937_64 random_;
  std::map<std::string, ModelStream> model_;
};

TEST_F(PropertyTest, RandomHistoriesMatchTheModel) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    random_.seed(seed);
    for (const auto& [id, stream] : model_) ASSERT_TRUE(store_->Delete(id).ok());
    model_.clear();
    for (int step = 0; step < 120; ++step) {
      Step(int(seed) * 1000 + step);
      if (HasFatalFailure()) return;
      if (step % 20 == 19) {
        if (random_() % 2 == 0) Reopen();
        ExpectAsModel();
        ExpectClean();
        if (HasFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace lola::store
