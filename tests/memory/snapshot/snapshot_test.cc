#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>

#include "memory/snapshot/reader.h"
#include "memory/snapshot/verify.h"
#include "memory/snapshot/writer.h"
#include "memory/stream/layer_views.h"
#include "tests/memory/snapshot/snapshot_testing.h"

namespace lola::memory {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<uint64_t> Read(std::span<const std::byte> blob, const SnapshotIdentity& expected,
                              std::optional<uint64_t> position = std::nullopt) {
  SmallRecord target(expected);
  return ReadSnapshot(blob, expected, target.layout(), target.record(), position);
}

std::string ErrorOf(const absl::StatusOr<uint64_t>& result) {
  return result.ok() ? "ok" : std::string(result.status().message());
}

TEST(Snapshot, PutsTheSameBytesBack) {
  SmallRecord source, target;
  const auto writer = SnapshotWriter::Create(SmallIdentity(), source.layout(), source.record());
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ(writer->position(), 20u);
  const std::vector<std::byte> blob = writer->ToBytes();
  EXPECT_EQ(blob.size(), writer->size_bytes());
  std::fill(target.record().begin(), target.record().end(), std::byte{0xEE});
  const auto position = ReadSnapshot(blob, SmallIdentity(), target.layout(), target.record(), 20);
  ASSERT_TRUE(position.ok()) << position.status();
  EXPECT_EQ(*position, 20u);
  EXPECT_TRUE(std::ranges::equal(source.record(), target.record()));
}

TEST(Snapshot, PiecesJoinToTheBlobAndReadInAnyPortions) {
  SmallRecord source, target;
  const auto writer = SnapshotWriter::Create(SmallIdentity(), source.layout(), source.record());
  ASSERT_TRUE(writer.ok());
  for (const size_t most : {size_t{13}, size_t{4096}, size_t{100000}}) {
    SnapshotReader reader(SmallIdentity(), target.layout(), target.record());
    std::vector<std::byte> joined;
    for (;;) {
      const std::span<const std::byte> piece = writer->Piece(joined.size(), most);
      if (piece.empty()) break;
      ASSERT_LE(piece.size(), most);
      ASSERT_TRUE(reader.Feed(piece).ok());
      joined.insert(joined.end(), piece.begin(), piece.end());
    }
    EXPECT_EQ(joined, writer->ToBytes());
    EXPECT_EQ(*reader.Finish(), 20u);
    EXPECT_TRUE(std::ranges::equal(source.record(), target.record()));
  }
}

TEST(Snapshot, WriterRefusesARecordOfSomethingElse) {
  SmallRecord record;
  SnapshotIdentity other = SmallIdentity();
  other.model_fingerprint[0] = 'f';
  EXPECT_THAT(
      std::string(
          SnapshotWriter::Create(other, record.layout(), record.record()).status().message()),
      HasSubstr("fingerprint"));
  other = SmallIdentity();
  other.settings.cache_pairs = 32;
  EXPECT_FALSE(SnapshotWriter::Create(other, record.layout(), record.record()).ok());
  EXPECT_FALSE(
      SnapshotWriter::Create(SmallIdentity(), record.layout(), record.record().first(4096)).ok());
}

// One changed field of the receiver at a time: refused, with the field and both values.
struct Mutation {
  const char* field;
  const char* values;
  std::function<void(SnapshotIdentity&)> change;
};

const Mutation kMutations[] = {
    {"model fingerprint", "blob has 00112233445566778899aabbccddeeff, expected f0112233",
     [](SnapshotIdentity& i) { i.model_fingerprint[0] = 'f'; }},
    {"geometry.layers", "blob has 2, expected 3",
     [](SnapshotIdentity& i) { i.geometry.layers = 3; }},
    {"geometry.hidden", "blob has 32, expected 48", [](auto& i) { i.geometry.hidden = 48; }},
    {"geometry.query_heads", "blob has 2, expected 4", [](auto& i) { i.geometry.query_heads = 4; }},
    {"geometry.kv_heads", "blob has 1, expected 2", [](auto& i) { i.geometry.kv_heads = 2; }},
    {"geometry.head_dim", "blob has 16, expected 32", [](auto& i) { i.geometry.head_dim = 32; }},
    {"geometry.feature_dim", "blob has 32, expected 64",
     [](auto& i) { i.geometry.feature_dim = 64; }},
    {"geometry.ffn", "blob has 64, expected 128", [](auto& i) { i.geometry.ffn = 128; }},
    {"geometry.vocab", "blob has 272, expected 512", [](auto& i) { i.geometry.vocab = 512; }},
    {"settings.mode", "blob has lola, expected softmax",
     [](auto& i) { i.settings = LolaSettings::SoftmaxProfile(64); }},
    {"settings.window", "blob has 16, expected 32", [](auto& i) { i.settings.window = 32; }},
    {"settings.chunk", "blob has 16, expected 8", [](auto& i) { i.settings.chunk = 8; }},
    {"settings.cache_pairs", "blob has 16, expected 32",
     [](auto& i) { i.settings.cache_pairs = 32; }},
    {"settings.mixing", "blob has gated_natural, expected natural",
     [](auto& i) { i.settings.mixing = Mixing::kNatural; }},
    {"settings.memory_positions", "blob has constant, expected rotary",
     [](auto& i) { i.settings.memory_positions = MemoryPositions::kRotary; }},
    {"settings.memory_distance", "blob has 128, expected 64",
     [](auto& i) { i.settings.memory_distance = 64; }},
    {"settings.mass_cap", "blob has 512, expected 256", [](auto& i) { i.settings.mass_cap = 256; }},
    {"settings.redundancy_threshold", "blob has 0.3, expected 0.5",
     [](auto& i) { i.settings.redundancy_threshold = 0.5f; }},
    {"settings.score", "blob has sre, expected value_norm",
     [](auto& i) { i.settings.score = Score::kValueNorm; }},
    {"settings.rescore", "blob has 1, expected 0", [](auto& i) { i.settings.rescore = false; }},
    {"settings.score_epsilon", "blob has 1e-06, expected 0.001",
     [](auto& i) { i.settings.score_epsilon = 1e-3f; }},
    {"settings.cache_dtype", "blob has float32, expected bfloat16",
     [](auto& i) { i.settings.cache_dtype = kernels::Dtype::kBFloat16; }},
    {"settings.cache_dtype", "blob has float32, expected float8",
     [](auto& i) { i.settings.cache_dtype = kernels::Dtype::kFloat8; }},
    {"settings.cache_pairs_per_layer[0]", "blob has nothing, expected 16",
     [](auto& i) {
       i.settings.cache_pairs_per_layer = {16, 16};
     }},
    {"settings.sinks", "blob has nothing, expected 2", [](auto& i) { i.settings.sinks = 2; }},
    {"settings.cache_sharing", "blob has nothing, expected group",
     [](auto& i) { i.settings.cache_sharing = CacheSharing::kGroup; }},
    {"settings.adaptive_mass", "blob has nothing, expected 0.5",
     [](auto& i) { i.settings.adaptive_mass = 0.5f; }},
};

TEST(Snapshot, NamesEveryFieldThatDiffersWithBothValues) {
  const std::vector<std::byte> blob = SmallBlob();
  for (const Mutation& mutation : kMutations) {
    SnapshotIdentity receiver = SmallIdentity();
    mutation.change(receiver);
    const absl::StatusOr<uint64_t> result = Read(blob, receiver);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition) << mutation.field;
    EXPECT_THAT(ErrorOf(result), HasSubstr(std::string(mutation.field) + ": "));
    EXPECT_THAT(ErrorOf(result), HasSubstr(mutation.values)) << mutation.field;
  }
}

TEST(Snapshot, TheNameOfAProfileIsNotASetting) {
  SnapshotIdentity receiver = SmallIdentity();
  receiver.settings.profile = "custom";
  EXPECT_EQ(ErrorOf(Read(SmallBlob(), receiver)), "ok");
}

TEST(Snapshot, RefusesAnotherPosition) {
  EXPECT_THAT(ErrorOf(Read(SmallBlob(), SmallIdentity(), 21)),
              HasSubstr("position: blob has 20, expected 21"));
}

// Damage that a recomputed checksum hides is found by comparing preface and record.
TEST(Snapshot, RefusesAPrefaceThatContradictsItsRecord) {
  const std::vector<std::byte> good = SmallBlob();
  const auto error = [&](auto&& change) {
    Preface preface = *VerifyBlob(good);
    const size_t head = EncodePreface(preface).size();
    change(preface);
    std::vector<std::byte> blob = good;
    const std::string bytes = EncodePreface(preface);
    EXPECT_EQ(bytes.size(), head);
    std::memcpy(blob.data(), bytes.data(), head);
    return ErrorOf(Read(blob, SmallIdentity()));
  };
  EXPECT_EQ(error([](Preface&) {}), "ok");
  EXPECT_THAT(error([](Preface& p) { p.position = 21; }),
              HasSubstr("preface has 21, record has 20"));
  EXPECT_THAT(error([](Preface& p) { p.digest[3] ^= std::byte{1}; }), HasSubstr("snapshot digest"));
  EXPECT_THAT(error([](Preface& p) { p.sections[2].hash[0] ^= std::byte{1}; }),
              HasSubstr("section layer 1"));
  EXPECT_THAT(error([](Preface& p) { p.settings[1].name = "windox"; }), HasSubstr("windox"));
}

TEST(Snapshot, NoticesDamageInEverySection) {
  const std::vector<std::byte> good = SmallBlob();
  const Preface preface = *VerifyBlob(good);
  const size_t head = good.size() - preface.record_bytes;
  for (const PrefaceSection& section : preface.sections) {
    std::vector<std::byte> bad = good;
    bad[head + section.offset + section.size / 2] ^= std::byte{4};
    const absl::StatusOr<uint64_t> result = Read(bad, SmallIdentity());
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(ErrorOf(result), HasSubstr("section " + section.name + " "));
  }
  EXPECT_EQ(Read(std::span(good).first(good.size() - 1), SmallIdentity()).status().code(),
            absl::StatusCode::kDataLoss);
}

// Blobs of released versions stay readable for ever. The file was written once by version 1.
TEST(Snapshot, GoldenFileOfVersion1StaysReadable) {
  const char path[] = LOLA_SOURCE_DIR "/tests/testdata/snapshot/v1_small.bin";
  std::ifstream in(path, std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(in), {}};
  ASSERT_FALSE(file.empty()) << path;
  const std::span<const std::byte> blob = std::as_bytes(std::span(file));
  SmallRecord target;
  const auto position = ReadSnapshot(blob, SmallIdentity(), target.layout(), target.record());
  ASSERT_TRUE(position.ok()) << position.status();
  EXPECT_EQ(*position, 20u);
  EXPECT_EQ(HashHex(VerifyBlob(blob)->digest), "37e2bda2102958eaa7f9dcf546b31edd");
  // And today's writer still makes the same bytes.
  EXPECT_TRUE(std::ranges::equal(blob, SmallBlob()));
}

TEST(Snapshot, LaterSettingsAreNamedWhereverTheyDiffer) {
  const SnapshotIdentity blob_of = ExtendedIdentity();
  const std::vector<std::byte> blob = BlobOf(blob_of);
  EXPECT_EQ(ErrorOf(Read(blob, blob_of)), "ok");
  const auto error = [&](auto change) {
    SnapshotIdentity receiver = ExtendedIdentity();
    change(receiver.settings);
    return ErrorOf(Read(blob, receiver));
  };
  EXPECT_THAT(error([](auto& s) { s.score = Score::kKeyNorm; }),
              HasSubstr("settings.score: blob has attention, expected key_norm"));
  EXPECT_THAT(error([](auto& s) { s.sinks = 0; }),
              HasSubstr("settings.sinks: blob has 2, expected nothing"));
  EXPECT_THAT(error([](auto& s) { s.cache_sharing = CacheSharing::kGroupMax; }),
              HasSubstr("settings.cache_sharing: blob has group, expected group_max"));
  EXPECT_THAT(error([](auto& s) { s.adaptive_mass = 0.75f; }),
              HasSubstr("settings.adaptive_mass: blob has 0.5, expected 0.75"));
  EXPECT_THAT(error([](auto& s) { s.cache_pairs_min = 0; }),
              HasSubstr("settings.cache_pairs_min: blob has 4, expected nothing"));
}

// The file was written once by version 2; settings of the first release still give version 1.
TEST(Snapshot, GoldenFileOfVersion2StaysReadable) {
  const char path[] = LOLA_SOURCE_DIR "/tests/testdata/snapshot/v2_small.bin";
  std::ifstream in(path, std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(in), {}};
  ASSERT_FALSE(file.empty()) << path;
  const std::span<const std::byte> blob = std::as_bytes(std::span(file));
  EXPECT_EQ(ErrorOf(Read(blob, ExtendedIdentity())), "ok");
  EXPECT_EQ(VerifyBlob(blob)->version, 2u);
  EXPECT_EQ(HashHex(VerifyBlob(blob)->digest), "6f00619d74f06e4be7926f65f575d8f3");
  EXPECT_TRUE(std::ranges::equal(blob, BlobOf(ExtendedIdentity())));
  EXPECT_EQ(VerifyBlob(SmallBlob())->version, 1u);
}

constexpr uint32_t kFloat8Position = 20, kFloat8Cached = 5;

// Row `row` of a pair, over seven powers of two; some elements are too small for their row.
std::vector<float> Float8Row(uint32_t layer, uint32_t row, bool value) {
  std::vector<float> numbers(16);
  for (uint32_t i = 0; i < 16; ++i) {
    const int spread = static_cast<int>((7 * i + 3 * row + layer) % 23) - 11;
    numbers[i] = std::ldexp(static_cast<float>(spread), static_cast<int>((row + i / 4) % 7) - 5);
    if (value) numbers[i] = -0.7f * numbers[i];
  }
  return numbers;
}

// Calls f(rows, row, layer) for every live row of the record.
void ForEachFloat8Row(const StateLayout& layout, std::span<std::byte> record,
                      const std::function<void(PairRows, uint32_t, uint32_t)>& f) {
  for (uint32_t layer = 0; layer < layout.geometry().layers; ++layer) {
    const PairRows window = WindowRows(layout, record.data(), layer, 0);
    for (uint32_t row = 0; row < kFloat8Position; ++row) f(window, row, layer);
    for (uint32_t head = 0; head < layout.geometry().query_heads; ++head) {
      const HeadMemory memory = HeadOf(layout, record.data(), layer, head);
      for (uint32_t slot = 0; slot < kFloat8Cached; ++slot) f(memory.cache, slot, layer);
    }
  }
}

// The file was written once by version 2, when float8 rows were added: it pins their encoding.
TEST(Snapshot, GoldenFileWithFloat8RowsStaysReadable) {
  const char path[] = LOLA_SOURCE_DIR "/tests/testdata/snapshot/v2_float8.bin";
  std::ifstream in(path, std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(in), {}};
  ASSERT_FALSE(file.empty()) << path;
  const std::span<const std::byte> blob = std::as_bytes(std::span(file));
  SmallRecord target(Float8Identity());
  std::fill(target.record().begin(), target.record().end(), std::byte{0xEE});
  const auto position =
      ReadSnapshot(blob, Float8Identity(), target.layout(), target.record(), kFloat8Position);
  ASSERT_TRUE(position.ok()) << position.status();
  EXPECT_EQ(VerifyBlob(blob)->version, 2u);
  EXPECT_EQ(HashHex(VerifyBlob(blob)->digest), "855eaaf76dc0f56dc4f5b5b23017d394");
  // The rows mean what they meant.
  ForEachFloat8Row(target.layout(), target.record(), [](PairRows rows, uint32_t row, uint32_t l) {
    std::vector<float> key(16), value(16), k = Float8Row(l, row, false),
                                           v = Float8Row(l, row, true);
    rows.Load(row, key.data(), value.data());
    RoundRow(kernels::Dtype::kFloat8, k.data(), 16);
    RoundRow(kernels::Dtype::kFloat8, v.data(), 16);
    EXPECT_EQ(key, k) << row;
    EXPECT_EQ(value, v) << row;
    EXPECT_NE(value, Float8Row(l, row, true)) << "rounded";
  });
  // And today's writer still makes the same bytes.
  SmallRecord source(Float8Identity());
  ForEachFloat8Row(source.layout(), source.record(), [](PairRows rows, uint32_t row, uint32_t l) {
    rows.Store(row, Float8Row(l, row, false).data(), Float8Row(l, row, true).data());
  });
  const auto writer = SnapshotWriter::Create(Float8Identity(), source.layout(), source.record());
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_TRUE(std::ranges::equal(blob, writer->ToBytes()));
  EXPECT_THAT(ErrorOf(Read(blob, SmallIdentity())),
              HasSubstr("settings.cache_dtype: blob has float8, expected float32"));
}

}  // namespace
}  // namespace lola::memory
