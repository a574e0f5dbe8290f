#include "services/engine/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "tests/services/engine/safetensors_builder.h"

namespace lola::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kEight(8, '\1');

std::string ErrorOf(const std::string& header, const std::string& data) {
  const std::string file = SafetensorsFile(header, data);
  const auto parsed = ParseSafetensors(Bytes(file), "f");
  return parsed.ok() ? "ok" : std::string(parsed.status().message());
}

std::string Entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"t":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

TEST(Safetensors, ReadsTensorsAndSkipsMetadata) {
  const std::string file = SafetensorsFile(
      R"({"__metadata__":{"a":"b"},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]},)"
      R"("a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})",
      std::string("\x80\x3f\x00\xc0", 4) + std::string("\0\0\x80\x3f\0\0\0\xbf", 8));
  const auto tensors = ParseSafetensors(Bytes(file), "f");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  float out[2];
  ASSERT_TRUE(CopyToFloat("a", tensors->at("a"), 0, out).ok());
  EXPECT_THAT(out, ElementsAre(1.0f, -2.0f));
  ASSERT_TRUE(CopyToFloat("b", tensors->at("b"), 0, out).ok());
  EXPECT_THAT(out, ElementsAre(1.0f, -0.5f));
}

TEST(Safetensors, WidensHalfPrecisionExactly) {
  // 1, -2, the smallest subnormal, the largest value, infinity, NaN.
  const uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00, 0x7e00};
  TensorView view{"F16", {6}, std::as_bytes(std::span(halves))};
  float out[6];
  ASSERT_TRUE(CopyToFloat("h", view, 0, out).ok());
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
  EXPECT_EQ(out[2], std::ldexp(1.0f, -24));
  EXPECT_EQ(out[3], 65504.0f);
  EXPECT_TRUE(std::isinf(out[4]));
  EXPECT_TRUE(std::isnan(out[5]));
}

TEST(Safetensors, RefusesIntegerTensorsOnUse) {
  TensorView view{"I64", {1}, Bytes(kEight)};
  float out[1];
  const absl::Status status = CopyToFloat("t", view, 0, out);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("I64"));
}

TEST(Safetensors, NamesWhatIsWrongWithAFile) {
  EXPECT_THAT(ErrorOf("{}", ""), "ok");
  EXPECT_THAT(ErrorOf("[]", ""), HasSubstr("not a JSON object"));
  EXPECT_THAT(ErrorOf("{", ""), HasSubstr("not a JSON object"));
  EXPECT_THAT(ErrorOf("{}", "x"), HasSubstr("data section has 1 bytes, tensors cover 0"));
  EXPECT_THAT(ErrorOf(Entry("F32", "[2]", "[0,8]"), "123"), HasSubstr("data section of 3 bytes"));
  EXPECT_THAT(ErrorOf(Entry("F32", "[3]", "[0,8]"), kEight), HasSubstr("need 12 bytes"));
  EXPECT_THAT(ErrorOf(Entry("F32", "[2]", "[8,0]"), kEight), HasSubstr("[8, 0]"));
  EXPECT_THAT(ErrorOf(Entry("F32", "[-2]", "[0,8]"), kEight), HasSubstr("shape: -2"));
  EXPECT_THAT(ErrorOf(Entry("F31", "[2]", "[0,8]"), kEight), HasSubstr("F31"));
  EXPECT_THAT(ErrorOf(Entry("F32", "[4294967296,4294967296,4294967296]", "[0,8]"), kEight),
              HasSubstr("overflows"));
  EXPECT_THAT(ErrorOf(R"({"t":{"dtype":"F32","shape":[2]}})", kEight), HasSubstr("data_offsets"));
  EXPECT_THAT(ErrorOf(R"({"t":[]})", kEight), HasSubstr("tensor t: not an object"));
  const std::string nest = std::string(200'000, '[') + std::string(200'000, ']');
  EXPECT_THAT(ErrorOf(Entry("F32", "[" + nest + "]", "[0,8]"), kEight),
              HasSubstr("f: header is nested deeper than 128 levels"));
}

TEST(Safetensors, RefusesOverlapsAndHoles) {
  const auto two = [](const char* a, const char* b) {
    return std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + a +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}";
  };
  EXPECT_EQ(ErrorOf(two("[0,4]", "[4,8]"), kEight), "ok");
  EXPECT_THAT(ErrorOf(two("[0,4]", "[2,6]"), kEight), HasSubstr("inside byte 4"));
  EXPECT_THAT(ErrorOf(two("[0,4]", "[5,9]"), kEight + "x"), HasSubstr("after a hole from byte 4"));
}

TEST(Safetensors, RefusesImpossibleHeaderLengths) {
  const std::string whole = SafetensorsFile(Entry("F32", "[2]", "[0,8]"), kEight);
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(ParseSafetensors(Bytes(whole.substr(0, size)), "f").ok()) << size;
  }
  std::string huge = whole;
  std::memset(huge.data(), 0xff, 8);
  EXPECT_EQ(ParseSafetensors(Bytes(huge), "f").status().code(), absl::StatusCode::kDataLoss);
}

class TensorSetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(dir_ / name, std::ios::binary) << content;
  }
  void WriteTensor(const std::string& file, const std::string& tensor) {
    Write(file,
          SafetensorsFile(
              R"({")" + tensor + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", kEight));
  }
  std::filesystem::path dir_;
};

TEST_F(TensorSetTest, ReadsFilesOfAnIndex) {
  WriteTensor("one.safetensors", "a");
  WriteTensor("two.safetensors", "b");
  Write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto set = TensorSet::Open(dir_);
  ASSERT_TRUE(set.ok()) << set.status();
  const uint64_t two[] = {2}, three[] = {3};
  EXPECT_TRUE(set->Find("b", two).ok());
  EXPECT_THAT(std::string(set->Find("b", three).status().message()),
              HasSubstr("[2], expected [3]"));
  EXPECT_EQ(set->Find("c", two).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TensorSetTest, RefusesAnIndexThatLeavesTheFolderOrLies) {
  WriteTensor("one.safetensors", "a");
  Write("model.safetensors.index.json", R"({"weight_map":{"a":"../one.safetensors"}})");
  EXPECT_THAT(std::string(TensorSet::Open(dir_).status().message()), HasSubstr("../one"));
  Write("model.safetensors.index.json", R"({"weight_map":{"z":"one.safetensors"}})");
  EXPECT_THAT(std::string(TensorSet::Open(dir_).status().message()), HasSubstr("weight_map.z"));
  Write("model.safetensors.index.json", R"({"weight_map":{"z":"gone.safetensors"}})");
  EXPECT_EQ(TensorSet::Open(dir_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TensorSetTest, RefusesWhatIsNoFileWithoutWaitingForIt) {
  ASSERT_EQ(mkfifo((dir_ / "model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(std::string(TensorSet::Open(dir_).status().message()),
              HasSubstr("model.safetensors: not a regular file"));
}

TEST_F(TensorSetTest, NamesAMissingFile) {
  const absl::Status status = TensorSet::Open(dir_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
}

}  // namespace
}  // namespace lola::engine
