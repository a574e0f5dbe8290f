// Snapshots in and out, retention, damage, full disk.
#include "memory/store/snapshot_check.h"
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class SnapshotTest : public StoreTest {
 protected:
  SnapshotTest() {
    Create("s");
    epoch_ = Acquire("s");
    EXPECT_TRUE(Append("s", epoch_, 0, Count(0, 100)).ok());
  }
  std::string BlobPath(const std::string& blob_id) { return folder_ + "/blobs/" + blob_id; }
  uint64_t epoch_ = 0;
};

TEST_F(SnapshotTest, BytesComeBackAsTheyWent) {
  std::string bytes;
  for (int i = 0; i < 100'000; ++i) bytes += char(i * 7);
  const auto info = Put("s", epoch_, 60, bytes);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->position(), 60u);
  EXPECT_EQ(info->digest(), kDigest);
  EXPECT_EQ(info->size_bytes(), bytes.size());
  Reopen();
  ASSERT_EQ(Info("s").snapshots_size(), 1);
  EXPECT_EQ(Info("s").snapshots(0).blob_id(), info->blob_id());
  EXPECT_EQ(*Get("s", info->blob_id()), bytes);
  EXPECT_EQ(store_->DescribeShard().blob_bytes(), bytes.size());
  EXPECT_TRUE(Files("tmp").empty());
}

TEST_F(SnapshotTest, KeepsNewestTwoAutomaticAndAllNamed) {
  for (uint64_t position = 1; position <= 5; ++position) {
    ASSERT_TRUE(Put("s", epoch_, position, "automatic").ok());
    if (position <= 2) {
      ASSERT_TRUE(Put("s", epoch_, position, "named", "n" + std::to_string(position)).ok());
    }
  }
  std::vector<std::string> kept;
  const v1::StreamInfo stream = Info("s");
  for (const auto& snapshot : stream.snapshots()) {
    kept.push_back(std::to_string(snapshot.position()) + snapshot.name());
  }
  EXPECT_EQ(kept, (std::vector<std::string>{"1n1", "2n2", "4", "5"}));
  ExpectClean();
  EXPECT_EQ(Files("blobs").size(), 4u);
  EXPECT_EQ(store_->Stats().blobs, 4u);
}

TEST_F(SnapshotTest, AutomaticSnapshotBehindTheKeptOnesIsRefused) {
  ASSERT_TRUE(Put("s", epoch_, 50, "a").ok());
  ASSERT_TRUE(Put("s", epoch_, 60, "b").ok());
  EXPECT_REFUSED(Put("s", epoch_, 40, "c").status(), kFailedPrecondition, "is at 40, older than");
  EXPECT_EQ(Info("s").snapshots_size(), 2);
  ExpectClean();
}

TEST_F(SnapshotTest, RetryOfTheSameSnapshotIsTheSame) {
  const auto first = Put("s", epoch_, 50, "bytes", "n");
  const auto again = Put("s", epoch_, 50, "bytes", "n");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->blob_id(), first->blob_id());
  EXPECT_EQ(Files("blobs").size(), 1u);
}

TEST_F(SnapshotTest, NameIsTakenOnce) {
  ASSERT_TRUE(Put("s", epoch_, 50, "bytes", "n").ok());
  EXPECT_REFUSED(Put("s", epoch_, 51, "bytes", "n").status(), kAlreadyExists,
                 "\"n\" is a snapshot at position 50, the call's is at 51");
  ExpectClean();
}

TEST_F(SnapshotTest, WhatDoesNotFitIsRefusedByField) {
  EXPECT_REFUSED(Put("s", epoch_, 101, "x").status(), kOutOfRange,
                 "at 101, stream \"s\" ends at 100");
  EXPECT_REFUSED(Put("none", epoch_, 1, "x").status(), kNotFound, "none");
  EXPECT_REFUSED(Put("s", epoch_ + 1, 1, "x").status(), kAborted, "epoch");
  EXPECT_REFUSED(Put("s", epoch_, 1, "x", " n").status(), kInvalidArgument, "name");
  EXPECT_REFUSED(Put(Header("s", epoch_, 1, 4), "five5").status(), kInvalidArgument,
                 "the header says 4, 5 bytes came");
  EXPECT_REFUSED(Put(Header("s", epoch_, 1, 6), "five5").status(), kInvalidArgument,
                 "the header says 6, 5 bytes came");
  v1::PutSnapshotHeader header = Header("s", epoch_, 1, 4);
  header.set_digest("short");
  EXPECT_REFUSED(Put(header, "four").status(), kInvalidArgument, "digest: has 5 bytes");
  EXPECT_REFUSED(Put(Header("s", epoch_, 1, 0), "").status(), kInvalidArgument, "size_bytes");
  header = Header("s", epoch_, 10, 4);
  header.set_state_position(11);
  EXPECT_REFUSED(Put(header, "four").status(), kInvalidArgument,
                 "state_position: is 11, behind position 10");
  header.set_state_position(10);
  header.add_instruction_classes(std::string(513, 'x'));
  EXPECT_REFUSED(Put(header, "four").status(), kInvalidArgument, "instruction_classes");
  header.clear_instruction_classes();
  for (size_t i = 0; i <= memory::kInstructionClassesMax; ++i) header.add_instruction_classes("x");
  EXPECT_REFUSED(Put(header, "four").status(), kInvalidArgument, "instruction_classes: 33");
  EXPECT_EQ(Info("s").snapshots_size(), 0);
  EXPECT_TRUE(Files("tmp").empty());
  EXPECT_TRUE(Files("blobs").empty());
}

TEST_F(SnapshotTest, NamedSnapshotsHaveABound) {
  for (size_t i = 0; i < memory::kNamedSnapshotsMax; ++i) {
    ASSERT_TRUE(Put("s", epoch_, 1, "x", "n" + std::to_string(i)).ok());
  }
  EXPECT_REFUSED(Put("s", epoch_, 1, "x", "more").status(), kResourceExhausted, "at most 64");
}

TEST_F(SnapshotTest, OwnerLostDuringTheUploadIsFenced) {
  auto upload = store_->PutSnapshot(Header("s", epoch_, 50, 4));
  ASSERT_TRUE((*upload)->Write("four").ok());
  Acquire("s");
  EXPECT_REFUSED((*upload)->Commit().status(), kAborted, "epoch");
  upload->reset();
  EXPECT_EQ(Info("s").snapshots_size(), 0);
  ExpectClean();
}

TEST_F(SnapshotTest, StreamDeletedDuringTheUploadLeavesNothing) {
  auto upload = store_->PutSnapshot(Header("s", epoch_, 50, 4));
  ASSERT_TRUE((*upload)->Write("four").ok());
  ASSERT_TRUE(store_->Delete("s").ok());
  EXPECT_REFUSED((*upload)->Commit().status(), kNotFound, "\"s\"");
  ExpectClean();
}

TEST_F(SnapshotTest, UploadsHaveABound) {
  std::vector<std::unique_ptr<SnapshotUpload>> uploads;
  for (size_t i = 0; i < memory::kUploadsMax; ++i) {
    uploads.push_back(*store_->PutSnapshot(Header("s", epoch_, 1, 1)));
  }
  EXPECT_REFUSED(store_->PutSnapshot(Header("s", epoch_, 1, 1)).status(), kResourceExhausted,
                 "64 are being written");
  uploads.clear();
  EXPECT_TRUE(Files("tmp").empty());
  EXPECT_TRUE(Put("s", epoch_, 1, "x").ok());
}

TEST_F(SnapshotTest, DamagedSnapshotIsRefusedBeforeItIsVisible) {
  store_.reset();
  options_.blob_check = NewSnapshotCheck;
  Reopen();
  EXPECT_FALSE(Put("s", epoch_, 50, std::string(8192, 'x')).ok());
  EXPECT_EQ(Info("s").snapshots_size(), 0);
  EXPECT_EQ(store_->Stats().snapshots_refused, 1u);
  EXPECT_TRUE(Files("blobs").empty());
}

TEST_F(SnapshotTest, FlippedBitSetsTheFileAsideAndTheOlderOneIsServed) {
  const auto older = Put("s", epoch_, 40, std::string(10'000, 'a'));
  const auto newer = Put("s", epoch_, 50, std::string(10'000, 'b'));
  const std::string path = BlobPath(newer->blob_id());
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5000);
    file.put('c');
  }
  EXPECT_REFUSED(Get("s", newer->blob_id()).status(), kDataLoss, path + ": checksum is");
  EXPECT_TRUE(std::filesystem::exists(path + ".broken"));
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_EQ(Info("s").snapshots_size(), 1);
  EXPECT_TRUE(Get("s", older->blob_id()).ok());
  EXPECT_EQ(store_->Stats().broken_blobs, 1u);
  ExpectClean();
  Reopen();
  EXPECT_EQ(Info("s").snapshots_size(), 1);
  EXPECT_TRUE(std::filesystem::exists(path + ".broken"));
}

TEST_F(SnapshotTest, TornFileIsRefusedByName) {
  const auto info = Put("s", epoch_, 40, std::string(10'000, 'a'));
  const std::string path = BlobPath(info->blob_id());
  std::filesystem::resize_file(path, 9'999);
  EXPECT_REFUSED(Get("s", info->blob_id()).status(), kDataLoss,
                 path + ": has 9999 bytes, was written with 10000");
  EXPECT_TRUE(std::filesystem::exists(path + ".broken"));
  EXPECT_EQ(Info("s").snapshots_size(), 0);
}

TEST_F(SnapshotTest, MissingFileIsRefusedByNameForEveryStreamThatSharesIt) {
  const auto info = Put("s", epoch_, 40, std::string(10'000, 'a'));
  ASSERT_TRUE(Fork("s", "child").ok());
  std::filesystem::remove(BlobPath(info->blob_id()));
  for (const char* id : {"s", "child"}) {
    EXPECT_REFUSED(Get(id, info->blob_id()).status(), kDataLoss, "missing");
    EXPECT_EQ(Info(id).snapshots_size(), 0);
  }
  EXPECT_GE(store_->Stats().broken_blobs, 1u) << "somebody must hear of it";
  EXPECT_REFUSED(Get("s", info->blob_id()).status(), kNotFound, info->blob_id());
}

TEST_F(SnapshotTest, ReadErrorsDoNotCondemnTheFile) {
  const auto info = Put("s", epoch_, 40, "bytes");
  files_.SetFault([](std::string_view step, const std::string& path) {
    return step == "read" ? absl::InternalError(path + ": read: Input/output error")
                          : absl::OkStatus();
  });
  EXPECT_REFUSED(Get("s", info->blob_id()).status(), kInternal, "Input/output error");
  files_.SetFault(nullptr);
  EXPECT_EQ(*Get("s", info->blob_id()), "bytes");
}

TEST_F(SnapshotTest, FullDiskRefusesByPathAndRecovers) {
  files_.SetSpaceLeft(5'000);
  EXPECT_REFUSED(Put("s", epoch_, 50, std::string(10'000, 'x')).status(), kResourceExhausted,
                 folder_ + "/tmp/");
  EXPECT_TRUE(Files("tmp").empty());
  EXPECT_TRUE(Files("blobs").empty());
  EXPECT_TRUE(Append("s", epoch_, 100, {1}).ok());
  files_.SetSpaceLeft(-1);
  EXPECT_TRUE(Put("s", epoch_, 50, std::string(10'000, 'x')).ok());
  ExpectClean();
}

TEST_F(SnapshotTest, EveryFailingStepLeavesNothingBehind) {
  for (const char* step : {"new", "append", "sync", "rename", "sync_folder"}) {
    files_.SetFault([&](std::string_view now, const std::string& path) {
      return now == step ? absl::InternalError(path + ": Input/output error") : absl::OkStatus();
    });
    EXPECT_FALSE(Put("s", epoch_, 50, "bytes").ok()) << step;
    files_.SetFault(nullptr);
    EXPECT_EQ(Info("s").snapshots_size(), 0) << step;
    EXPECT_TRUE(Files("tmp").empty()) << step;
    ExpectClean();
  }
}

TEST_F(SnapshotTest, PublishedSnapshotSurvivesAPowerCut) {
  const auto info = Put("s", epoch_, 50, "bytes");
  store_.reset();
  ASSERT_TRUE(files_.LoseUnsynced().ok());
  Reopen();
  EXPECT_EQ(*Get("s", info->blob_id()), "bytes");
}

}  // namespace
}  // namespace lola::store
