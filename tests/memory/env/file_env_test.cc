#include "memory/env/file_env.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "memory/env/fault_file_env.h"
#include "memory/env/random.h"

namespace lola::memory {
namespace {

class FileEnvTest : public ::testing::Test {
 protected:
  FileEnvTest() : folder_(std::filesystem::temp_directory_path() / ("lola_env_" + NewUid())) {
    EXPECT_TRUE(FileEnv::Real()->MakeFolder(folder_).ok());
  }
  ~FileEnvTest() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }

  const std::string folder_;
  FaultFileEnv env_{*FileEnv::Real()};
};

absl::Status WriteSynced(FileEnv& env, const std::string& path, std::string_view bytes) {
  auto file = env.NewFile(path);
  if (!file.ok()) return file.status();
  absl::Status status = (*file)->Append(bytes);
  if (status.ok()) status = (*file)->Sync();
  return status.ok() ? (*file)->Close() : status;
}

TEST_F(FileEnvTest, WritesReadsListsRenames) {
  FileEnv& env = *FileEnv::Real();
  ASSERT_TRUE(WriteWholeFile(env, Path("a"), "hello").ok());
  ASSERT_TRUE(env.Rename(Path("a"), Path("b")).ok());
  EXPECT_EQ(*ReadWholeFile(env, Path("b")), "hello");
  EXPECT_EQ(*env.List(folder_), std::vector<std::string>{"b"});
  EXPECT_EQ(*env.FileSize(Path("b")), 5u);
  ASSERT_TRUE(env.Remove(Path("b")).ok());
  EXPECT_TRUE(env.List(folder_)->empty());
}

TEST_F(FileEnvTest, ErrorsNameThePath) {
  FileEnv& env = *FileEnv::Real();
  const absl::Status missing = env.OpenFile(Path("missing")).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(missing.message()).find(Path("missing")), std::string::npos);
  ASSERT_TRUE(WriteWholeFile(env, Path("a"), "x").ok());
  EXPECT_EQ(env.NewFile(Path("a")).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(FileEnvTest, ReadingBeyondTheEndIsDataLoss) {
  ASSERT_TRUE(WriteWholeFile(*FileEnv::Real(), Path("a"), "abc").ok());
  auto file = FileEnv::Real()->OpenFile(Path("a"));
  ASSERT_TRUE(file.ok());
  char out[4];
  EXPECT_EQ((*file)->Read(0, out).code(), absl::StatusCode::kDataLoss);
}

TEST_F(FileEnvTest, AnOpenFileSurvivesItsRemoval) {
  ASSERT_TRUE(WriteWholeFile(*FileEnv::Real(), Path("a"), "abc").ok());
  auto file = FileEnv::Real()->OpenFile(Path("a"));
  ASSERT_TRUE(FileEnv::Real()->Remove(Path("a")).ok());
  char out[3];
  EXPECT_TRUE((*file)->Read(0, out).ok());
}

TEST_F(FileEnvTest, PowerCutLosesUnsyncedBytes) {
  {
    auto file = env_.NewFile(Path("a"));
    ASSERT_TRUE((*file)->Append("kept").ok());
    ASSERT_TRUE((*file)->Sync().ok());
    ASSERT_TRUE((*file)->Append("lost").ok());
    ASSERT_TRUE(env_.SyncFolder(folder_).ok());
  }
  ASSERT_TRUE(env_.LoseUnsynced().ok());
  EXPECT_EQ(*ReadWholeFile(env_, Path("a")), "kept");
}

TEST_F(FileEnvTest, PowerCutLosesNamesOfUnsyncedFolders) {
  ASSERT_TRUE(WriteSynced(env_, Path("new"), "x").ok());
  ASSERT_TRUE(env_.LoseUnsynced().ok());
  EXPECT_EQ(env_.OpenFile(Path("new")).status().code(), absl::StatusCode::kNotFound);

  ASSERT_TRUE(WriteSynced(env_, Path("old"), "x").ok());
  ASSERT_TRUE(env_.SyncFolder(folder_).ok());
  ASSERT_TRUE(env_.Rename(Path("old"), Path("renamed")).ok());
  ASSERT_TRUE(env_.LoseUnsynced().ok());
  EXPECT_EQ(*env_.List(folder_), std::vector<std::string>{"old"});
}

TEST_F(FileEnvTest, WholeFilesSurviveAPowerCut) {
  ASSERT_TRUE(WriteWholeFile(env_, Path("a"), "first").ok());
  ASSERT_TRUE(env_.LoseUnsynced().ok());
  EXPECT_EQ(*ReadWholeFile(env_, Path("a")), "first");
}

TEST_F(FileEnvTest, FullDiskIsResourceExhaustedUntilSpaceReturns) {
  env_.SetSpaceLeft(3);
  auto file = env_.NewFile(Path("a"));
  EXPECT_TRUE((*file)->Append("abc").ok());
  const absl::Status full = (*file)->Append("d");
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(full.message()).find(Path("a")), std::string::npos);
  env_.SetSpaceLeft(-1);
  EXPECT_TRUE((*file)->Append("d").ok());
}

TEST_F(FileEnvTest, InjectedFaultsAreAnswered) {
  env_.SetFault([](std::string_view step, const std::string& path) {
    return step == "sync" ? absl::InternalError(path + ": sync: Input/output error")
                          : absl::OkStatus();
  });
  EXPECT_EQ(WriteWholeFile(env_, Path("a"), "x").code(), absl::StatusCode::kInternal);
  env_.SetFault(nullptr);
  EXPECT_TRUE(env_.List(folder_)->empty());
}

}  // namespace
}  // namespace lola::memory
