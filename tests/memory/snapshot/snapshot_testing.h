// A small record with live content in every section, without a model.
#ifndef LOLA_TESTS_MEMORY_SNAPSHOT_SNAPSHOT_TESTING_H_
#define LOLA_TESTS_MEMORY_SNAPSHOT_SNAPSHOT_TESTING_H_

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <vector>

#include "memory/snapshot/preface.h"
#include "memory/snapshot/writer.h"
#include "memory/stream/arena.h"
#include "memory/stream/stream_state.h"

namespace lola::memory {

inline SnapshotIdentity SmallIdentity() {
  SnapshotIdentity identity;
  identity.model_fingerprint = "00112233445566778899aabbccddeeff";
  identity.geometry = {.layers = 2,
                       .hidden = 32,
                       .query_heads = 2,
                       .kv_heads = 1,
                       .head_dim = 16,
                       .feature_dim = 32,
                       .ffn = 64,
                       .vocab = 272};
  identity.settings = LolaSettings::LifelongProfile();
  identity.settings.window = identity.settings.chunk = 16;
  identity.settings.cache_pairs = 16;
  return identity;
}

// With every setting that version 1 does not know.
inline SnapshotIdentity ExtendedIdentity() {
  SnapshotIdentity identity = SmallIdentity();
  identity.settings.score = Score::kAttention;
  identity.settings.sinks = 2;
  identity.settings.cache_sharing = CacheSharing::kGroup;
  identity.settings.adaptive_mass = 0.5f;
  identity.settings.cache_pairs_min = 4;
  return identity;
}

// Window and sparse cache in float8, an exponent beside every row.
inline SnapshotIdentity Float8Identity() {
  SnapshotIdentity identity = SmallIdentity();
  identity.settings.cache_dtype = kernels::Dtype::kFloat8;
  return identity;
}

// Owns a record. Its numbers are filled in by hand: snapshots do not care what they mean.
class SmallRecord {
 public:
  explicit SmallRecord(const SnapshotIdentity& identity = SmallIdentity())
      : layout_(identity.geometry, identity.settings) {
    arena_ = *StreamArena::Create(layout_.stride_bytes(), 1);
    slot_ = *arena_->Acquire();
    StreamState state(&layout_, record());
    state.Reset(*HashFromHex(identity.model_fingerprint, "fingerprint"));
    state.SetPosition(20);
    // Float8 rows are filled by the test that reads them.
    const bool floats = identity.settings.cache_dtype == kernels::Dtype::kFloat32;
    for (uint32_t layer = 0; floats && layer < identity.geometry.layers; ++layer) {
      float* keys = reinterpret_cast<float*>(record().data() + layout_.layer(layer).window_k);
      for (size_t i = 0; i < 16 * 16; ++i) keys[i] = 0.25f * static_cast<float>(i + layer);
    }
  }
  std::span<std::byte> record() { return arena_->record(slot_); }
  const StateLayout& layout() const { return layout_; }

 private:
  StateLayout layout_;
  std::unique_ptr<StreamArena> arena_;
  size_t slot_ = 0;
};

inline std::vector<std::byte> BlobOf(const SnapshotIdentity& identity) {
  SmallRecord record(identity);
  const auto writer = SnapshotWriter::Create(identity, record.layout(), record.record());
  EXPECT_TRUE(writer.ok()) << writer.status();
  return writer->ToBytes();
}

inline std::vector<std::byte> SmallBlob() { return BlobOf(SmallIdentity()); }

}  // namespace lola::memory

#endif  // LOLA_TESTS_MEMORY_SNAPSHOT_SNAPSHOT_TESTING_H_
