#include "memory/store/blob_store.h"

#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class BlobStoreTest : public ::testing::Test {
 protected:
  BlobStoreTest()
      : folder_(std::filesystem::temp_directory_path() / ("lola_blobs_" + memory::NewUid())) {
    blobs_ = *BlobStore::Open(files_, folder_);
  }
  ~BlobStoreTest() override { std::filesystem::remove_all(folder_); }

  const std::string folder_;
  memory::FaultFileEnv files_{*memory::FileEnv::Real()};
  std::unique_ptr<BlobStore> blobs_;
};

TEST_F(BlobStoreTest, WriterThatStopsLeavesNothing) {
  {
    auto writer = blobs_->NewBlob();
    ASSERT_TRUE((*writer)->Write("abc").ok());
    EXPECT_EQ(files_.List(folder_ + "/tmp")->size(), 1u);
  }
  EXPECT_TRUE(files_.List(folder_ + "/tmp")->empty());
  EXPECT_TRUE(blobs_->List()->empty());
}

TEST_F(BlobStoreTest, FinishedBlobSurvivesAPowerCut) {
  auto writer = blobs_->NewBlob();
  ASSERT_TRUE((*writer)->Write("abc").ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  ASSERT_TRUE(files_.LoseUnsynced().ok());
  auto reader = blobs_->OpenBlob((*writer)->blob_id(), 3, (*writer)->checksum());
  ASSERT_TRUE(reader.ok());
  std::string piece = "left over";
  ASSERT_TRUE((*reader)->Next(100, &piece).ok());
  EXPECT_EQ(piece, "abc");
  ASSERT_TRUE((*reader)->Next(100, &piece).ok());
  EXPECT_EQ(piece, "");
}

TEST_F(BlobStoreTest, EveryFlippedBitIsFound) {
  auto writer = blobs_->NewBlob();
  ASSERT_TRUE((*writer)->Write("0123456789").ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const std::string path = blobs_->Path((*writer)->blob_id());
  for (int bit = 0; bit < 80; ++bit) {
    std::string bytes = "0123456789";
    bytes[size_t(bit / 8)] = char(bytes[size_t(bit / 8)] ^ (1 << bit % 8));
    std::ofstream(path, std::ios::binary) << bytes;
    auto reader = blobs_->OpenBlob((*writer)->blob_id(), 10, (*writer)->checksum());
    std::string piece;
    ASSERT_TRUE((*reader)->Next(4, &piece).ok());
    ASSERT_TRUE((*reader)->Next(4, &piece).ok());
    EXPECT_REFUSED((*reader)->Next(4, &piece), kDataLoss, path);
  }
}

TEST_F(BlobStoreTest, SetAsideIsNoBlobAnyMore) {
  auto writer = blobs_->NewBlob();
  ASSERT_TRUE((*writer)->Finish().ok());
  const std::string id = (*writer)->blob_id();
  EXPECT_FALSE(blobs_->SetAsideBefore(id));
  EXPECT_EQ(blobs_->SetAside(id), blobs_->Path(id) + ".broken");
  EXPECT_TRUE(blobs_->SetAsideBefore(id));
  EXPECT_TRUE(blobs_->List()->empty());
  EXPECT_TRUE(std::filesystem::exists(blobs_->Path(id) + ".broken"));
  EXPECT_TRUE(blobs_->Remove(id).ok());
}

}  // namespace
}  // namespace lola::store
