#include "memory/snapshot/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace lola::memory {
namespace {

using ::testing::HasSubstr;
using Blob = std::vector<std::byte>;

// A blob of made-up record bytes: the verifier knows nothing of streams.
Preface MakePreface(const Blob& record) {
  Preface preface;
  preface.position = 77;
  preface.record_bytes = record.size();
  preface.model = HashOf(std::as_bytes(std::span("model")));
  preface.digest = HashOf(record);
  preface.geometry = {{"layers", 2}, {"hidden", 32}};
  preface.settings = {{"window", 64}};
  const std::span<const std::byte> bytes(record);
  preface.sections = {{"header", 0, 100, HashOf(bytes.first(100))},
                      {"layer 0", 100, record.size() - 100, HashOf(bytes.subspan(100))}};
  return preface;
}

Blob Join(const Preface& preface, const Blob& record) {
  const std::string head = EncodePreface(preface);
  Blob blob(head.size() + record.size());
  std::memcpy(blob.data(), head.data(), head.size());
  std::memcpy(blob.data() + head.size(), record.data(), record.size());
  return blob;
}

Blob SomeRecord() {
  std::mt19937 random(3);
  Blob record(5000);
  for (std::byte& byte : record) byte = static_cast<std::byte>(random());
  return record;
}

std::string ErrorOf(const Blob& blob) {
  const auto verified = VerifyBlob(blob);
  return verified.ok() ? "ok" : std::string(verified.status().message());
}

TEST(Preface, SurvivesEncodingAndDecoding) {
  const Preface preface = MakePreface(SomeRecord());
  const std::string bytes = EncodePreface(preface);
  EXPECT_EQ(bytes.size() % 4096, 0u);
  const auto decoded = DecodePreface(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, preface);
}

TEST(Preface, HexOfHashesReadsBack) {
  const Hash128 hash = HashOf(std::as_bytes(std::span("x")));
  EXPECT_EQ(*HashFromHex(HashHex(hash), "f"), hash);
  for (const char* bad :
       {"", "00", "0011223344556677889900112233445G", "00112233445566778899AABBCCDDEEFF"}) {
    const absl::Status status = HashFromHex(bad, "model_fingerprint").status();
    EXPECT_THAT(std::string(status.message()), HasSubstr("model_fingerprint")) << bad;
  }
}

TEST(BlobVerifier, AcceptsAWholeBlobInAnyPortions) {
  const Blob record = SomeRecord();
  const Blob blob = Join(MakePreface(record), record);
  for (const size_t portion : {size_t{1}, size_t{7}, size_t{4096}, blob.size()}) {
    BlobVerifier verifier;
    for (size_t at = 0; at < blob.size(); at += portion) {
      const size_t size = std::min(portion, blob.size() - at);
      ASSERT_TRUE(verifier.Feed(std::span(blob).subspan(at, size)).ok());
    }
    EXPECT_TRUE(verifier.Finish().ok());
    ASSERT_NE(verifier.preface(), nullptr);
    EXPECT_EQ(verifier.preface()->position, 77u);
    EXPECT_EQ(verifier.bytes_fed(), blob.size());
    EXPECT_EQ(verifier.record_bytes_fed(), record.size());
  }
}

TEST(BlobVerifier, RefusesEveryShorterBlobAndSurplusBytes) {
  const Blob record = SomeRecord();
  Blob blob = Join(MakePreface(record), record);
  for (size_t size = 0; size < blob.size(); size += 97) {
    EXPECT_EQ(VerifyBlob(std::span(blob).first(size)).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
  blob.push_back(std::byte{0});
  EXPECT_THAT(ErrorOf(blob), HasSubstr("after its end"));
}

TEST(BlobVerifier, NoticesEveryChangedBit) {
  const Blob record = SomeRecord();
  const Blob good = Join(MakePreface(record), record);
  for (size_t at = 0; at < good.size(); at += at < 600 ? 1 : 41) {
    for (const int bit : {0, 7}) {
      Blob bad = good;
      bad[at] ^= static_cast<std::byte>(1 << bit);
      EXPECT_NE(ErrorOf(bad), "ok") << "byte " << at << " bit " << bit;
    }
  }
}

TEST(BlobVerifier, NamesWhatIsWrong) {
  const Blob record = SomeRecord();
  const Blob good = Join(MakePreface(record), record);
  Blob bad = good;
  bad[0] = std::byte{'X'};
  EXPECT_THAT(ErrorOf(bad), HasSubstr("magic"));
  bad = good;
  bad[8] = std::byte{9};
  EXPECT_THAT(ErrorOf(bad), HasSubstr("version: blob has 9, this build reads 1 to 2"));
  EXPECT_EQ(VerifyBlob(bad).status().code(), absl::StatusCode::kFailedPrecondition);
  bad = good;
  bad[24] ^= std::byte{1};
  EXPECT_THAT(ErrorOf(bad), HasSubstr("preface, checksum"));
  bad = good;
  bad.back() ^= std::byte{1};
  EXPECT_THAT(ErrorOf(bad), HasSubstr("section layer 0"));
  bad = good;
  bad[4095] = std::byte{1};
  EXPECT_THAT(ErrorOf(bad), HasSubstr("padding"));
}

TEST(BlobVerifier, RefusesContradictionsUnderACorrectChecksum) {
  const Blob record = SomeRecord();
  const auto error = [&](auto&& change) {
    Preface preface = MakePreface(record);
    change(preface);
    return ErrorOf(Join(preface, record));
  };
  EXPECT_EQ(error([](Preface&) {}), "ok");
  EXPECT_THAT(error([](Preface& p) { p.sections[1].offset = 99; }), HasSubstr("section layer 0"));
  EXPECT_THAT(error([](Preface& p) { p.sections[1].size += 1; }), HasSubstr("section layer 0"));
  EXPECT_THAT(error([](Preface& p) { p.sections[1].size = ~0ull; }), HasSubstr("section layer 0"));
  EXPECT_THAT(error([](Preface& p) { p.sections.pop_back(); }), HasSubstr("cover 100 of 5000"));
  EXPECT_THAT(error([](Preface& p) { p.sections.clear(); }), HasSubstr("sections: 0 entries"));
  EXPECT_THAT(error([](Preface& p) { p.record_bytes = 1; }), HasSubstr("section"));
}

TEST(BlobVerifier, StaysFailed) {
  BlobVerifier verifier;
  const Blob rubbish(5000, std::byte{1});
  EXPECT_FALSE(verifier.Feed(rubbish).ok());
  EXPECT_FALSE(verifier.Feed({}).ok());
  EXPECT_FALSE(verifier.Finish().ok());
  EXPECT_EQ(verifier.preface(), nullptr);
}

}  // namespace
}  // namespace lola::memory
