// Attention over what a stream remembers, in sections: up to 64 pairs of the sparse cache or of one
// window chunk, or 32 features of the recurrent state. A section gives a partial result (largest
// logit, weight, weighted values); the sections of a row are merged in one order.
//
// Determinism: how sections are cut depends on the settings alone, and inside a section a row's
// arithmetic does not depend on the other rows of its tile. So a row's bits are the same in a
// prefill of many rows and in a decode step, whatever else is in the batch.
#ifndef LOLA_KERNELS_CUDA_ATTEND_CUH_
#define LOLA_KERNELS_CUDA_ATTEND_CUH_

#include "kernels/cuda/calls.h"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

inline constexpr unsigned kAttendThreads = 128;

constexpr size_t AttendSharedFloats(unsigned rows, unsigned head_dim) {
  // queries or features, partial logits of four warps, weights, and the sums of thread groups
  return rows * (head_dim + 5 * kSectionPairs + 8 * kAttendThreads) + 2 * rows;
}

// Raw pairs a section covers.
struct PairSection {
  const unsigned char* keys;
  const unsigned char* values;
  uint32_t row;      // first ring row or slot, a multiple of 16
  uint32_t pairs;    // that may be live, for any row
  uint32_t variant;  // of the query
  bool causal;
  uint64_t position;  // of the first pair, when causal
};

LOLA_DEVICE PairSection CacheSection(const AttendParams& p, const SegmentEntry& segment,
                                     uint32_t section, uint32_t head) {
  const Plan& plan = *segment.plan;
  const LayerPlace& place = plan.layers[p.layer];
  const uint32_t cached =
      reinterpret_cast<const Counters*>(segment.record + place.counters)[head].cached;
  const uint32_t first = section * kSectionPairs;
  const size_t row_bytes = p.shape.head_dim * (plan.cache_type == CacheType::kFloat32 ? 4 : 2);
  const size_t head_bytes = head * size_t(place.cache_slots) * row_bytes;
  PairSection s{};
  s.keys = segment.record + place.cache_k + head_bytes;
  s.values = segment.record + place.cache_v + head_bytes;
  s.row = first;
  s.pairs = cached > first ? cached - first : 0;
  s.variant = plan.constant_positions ? plan.window / plan.chunk + 1 : 0;
  return s;
}

LOLA_DEVICE PairSection WindowSection(const AttendParams& p, const SegmentEntry& segment,
                                      uint32_t section, uint32_t head, const Tile& tile) {
  const Plan& plan = *segment.plan;
  const LayerPlace& place = plan.layers[p.layer];
  const uint32_t chunk = plan.softmax ? plan.window : plan.chunk;
  const uint32_t per_chunk = (chunk + kSectionPairs - 1) / kSectionPairs;
  const uint64_t current = tile.position / chunk;
  const uint64_t back = plan.softmax ? 0 : plan.window / plan.chunk;
  const uint64_t oldest = current > back ? current - back : 0;
  const uint64_t at = oldest + section / per_chunk;
  const uint32_t inside = section % per_chunk * kSectionPairs;
  const size_t row_bytes = p.shape.head_dim * (plan.cache_type == CacheType::kFloat32 ? 4 : 2);
  const uint32_t kv_head = head / (p.shape.query_heads / p.shape.kv_heads);
  const size_t head_bytes = kv_head * size_t(plan.ring_rows) * row_bytes;
  PairSection s{};
  if (at > current) return s;
  s.keys = segment.record + place.window_k + head_bytes;
  s.values = segment.record + place.window_v + head_bytes;
  s.row = RingRow(plan, at * chunk) + inside;
  s.pairs = chunk - inside;
  s.variant = plan.constant_positions ? uint32_t(current - at) : 0;
  s.causal = at == current;
  s.position = at * chunk + inside;
  return s;
}

// How many of a section's pairs row `row` of the tile sees.
LOLA_DEVICE uint32_t LivePairs(const PairSection& s, const Tile& tile, uint32_t row) {
  const uint32_t most = s.pairs < kSectionPairs ? s.pairs : kSectionPairs;
  if (!s.causal) return most;
  const uint64_t position = tile.position + row;
  if (position < s.position) return 0;
  const uint64_t seen = position - s.position + 1;
  return seen < most ? uint32_t(seen) : most;
}

// logits[row][pair] = scale q . k. Each thread: eight pairs, a sixteenth of the dimensions.
template <typename T, unsigned D, unsigned R>
LOLA_DEVICE void SectionLogits(const PairSection& s, const float* q, float scale, unsigned rows,
                               float* warp_part, float* logits) {
  constexpr unsigned kDims = D / 16;
  const unsigned octet = ThreadX() % 8, slice = ThreadX() / 8, warp = ThreadX() / kWarpThreads;
  const T* keys = reinterpret_cast<const T*>(s.keys) + size_t(s.row + octet / 2 * kKeyBlock) * D +
                  octet % 2 * 8;
  const bool inside = octet * 8 < s.pairs;  // whole blocks exist, dead rows hold zeros
  float sum[R][8] = {};
  for (unsigned i = 0; i < kDims && inside; ++i) {
    const unsigned dim = slice * kDims + i;
    float k[8];
    Load8(keys + dim * kKeyBlock, k);
    LOLA_UNROLL
    for (unsigned r = 0; r < R; ++r) {
      const float qr = q[r * D + dim];
      LOLA_UNROLL
      for (unsigned j = 0; j < 8; ++j) sum[r][j] = fmaf(qr, k[j], sum[r][j]);
    }
  }
  LOLA_UNROLL
  for (unsigned r = 0; r < R; ++r) {
    LOLA_UNROLL
    for (unsigned j = 0; j < 8; ++j) {
      float x = sum[r][j];
      x += ShuffleXor(x, 8);
      x += ShuffleXor(x, 16);
      if (ThreadX() % kWarpThreads < 8)
        warp_part[(warp * R + r) * kSectionPairs + octet * 8 + j] = x;
    }
  }
  SyncThreads();
  for (unsigned n = ThreadX(); n < rows * kSectionPairs; n += kAttendThreads) {
    const unsigned step = R * kSectionPairs;
    const float x =
        (warp_part[n] + warp_part[n + step]) + (warp_part[n + 2 * step] + warp_part[n + 3 * step]);
    logits[n] = x * scale;
  }
  SyncThreads();
}

// Turns a row's logits into weights; gives the largest logit and the sum of the weights.
LOLA_DEVICE void SectionWeights(float* logits, uint32_t live, float& top, float& weight) {
  const unsigned lane = ThreadX() % kWarpThreads;
  const float a = lane < live ? logits[lane] : -INFINITY;
  const float b = lane + 32 < live ? logits[lane + 32] : -INFINITY;
  top = WarpMax(fmaxf(a, b));
  const float wa = lane < live ? expf(a - top) : 0.0f;
  const float wb = lane + 32 < live ? expf(b - top) : 0.0f;
  logits[lane] = wa;
  logits[lane + 32] = wb;
  weight = WarpSum(wa + wb);
}

// out[row][dim] = sum over groups of `sums`, groups ascending.
LOLA_DEVICE void MergeGroups(const float* sums, unsigned groups, unsigned d, unsigned rows,
                             size_t row_floats, float* partials, size_t partial_stride) {
  for (unsigned n = ThreadX(); n < rows * d; n += kAttendThreads) {
    const unsigned r = n / d, i = n % d;
    float sum = 0;
    for (unsigned g = 0; g < groups; ++g) sum += sums[r * row_floats + g * d + i];
    partials[r * partial_stride + 2 + i] = sum;
  }
}

template <typename T, unsigned D, unsigned R>
LOLA_DEVICE void AttendPairs(const AttendParams& p, const Tile& tile, const PairSection& s,
                             float* partials, size_t partial_stride) {
  constexpr unsigned kColumns = D / 8, kGroups = kAttendThreads / kColumns;
  constexpr unsigned kGroupPairs = kSectionPairs / kGroups;
  float* q = reinterpret_cast<float*>(SharedBytes());
  float* warp_part = q + R * D;
  float* logits = warp_part + R * 4 * kSectionPairs;
  float* sums = logits + R * kSectionPairs;
  const unsigned rows = tile.rows < R ? tile.rows : R;
  const size_t head_stride = size_t(p.variants) * D;
  for (unsigned n = ThreadX(); n < R * D; n += kAttendThreads) {
    const unsigned r = n / D;
    const size_t at = (size_t(tile.first_row + r) * p.shape.query_heads + BlockY()) * head_stride;
    q[n] = r < rows ? p.queries[at + s.variant * D + n % D] : 0.0f;
  }
  SyncThreads();
  SectionLogits<T, D, R>(s, q, p.scale, rows, warp_part, logits);
  for (unsigned r = ThreadX() / kWarpThreads; r < rows; r += kAttendThreads / kWarpThreads) {
    float top, weight;
    SectionWeights(logits + r * kSectionPairs, LivePairs(s, tile, r), top, weight);
    if (ThreadX() % kWarpThreads == 0) {
      partials[r * partial_stride] = top;
      partials[r * partial_stride + 1] = weight;
    }
  }
  SyncThreads();
  const unsigned column = ThreadX() % kColumns, group = ThreadX() / kColumns;
  const T* values = reinterpret_cast<const T*>(s.values) + size_t(s.row) * D + column * 8;
  float sum[R][8] = {};
  for (unsigned i = 0; i < kGroupPairs; ++i) {
    const unsigned pair = group * kGroupPairs + i;
    if (pair >= s.pairs) break;
    float v[8];
    Load8(values + size_t(pair) * D, v);
    LOLA_UNROLL
    for (unsigned r = 0; r < R; ++r) {
      if (r >= rows || pair >= LivePairs(s, tile, r)) continue;
      const float w = logits[r * kSectionPairs + pair];
      LOLA_UNROLL
      for (unsigned j = 0; j < 8; ++j) sum[r][j] = fmaf(w, v[j], sum[r][j]);
    }
  }
  LOLA_UNROLL
  for (unsigned r = 0; r < R; ++r) {
    LOLA_UNROLL
    for (unsigned j = 0; j < 8; ++j) {
      sums[r * kGroups * D + group * D + column * 8 + j] = sum[r][j];
    }
  }
  SyncThreads();
  MergeGroups(sums, kGroups, D, rows, kGroups * D, partials, partial_stride);
}

// The linear part: sums of phi H and phi . s over 32 features.
template <unsigned D, unsigned R>
LOLA_DEVICE void AttendState(const AttendParams& p, const Tile& tile, const SegmentEntry& segment,
                             uint32_t section, float* partials, size_t partial_stride) {
  constexpr unsigned kColumns = D / 4, kGroups = kAttendThreads / kColumns;
  constexpr unsigned kGroupFeatures = kSectionFeatures / kGroups;
  const LayerPlace& place = segment.plan->layers[p.layer];
  const uint32_t features = p.shape.feature_dim, first = section * kSectionFeatures;
  float* phi = reinterpret_cast<float*>(SharedBytes());
  float* sums = phi + R * kSectionFeatures;
  const unsigned rows = tile.rows < R ? tile.rows : R;
  for (unsigned n = ThreadX(); n < R * kSectionFeatures; n += kAttendThreads) {
    const unsigned r = n / kSectionFeatures;
    const size_t at = (size_t(tile.first_row + r) * p.shape.query_heads + BlockY()) * features;
    phi[n] = r < rows ? p.features[at + first + n % kSectionFeatures] : 0.0f;
  }
  SyncThreads();
  const float* s = reinterpret_cast<const float*>(segment.record + place.s) +
                   BlockY() * size_t(2) * features + first;
  for (unsigned r = ThreadX() / kWarpThreads; r < rows; r += kAttendThreads / kWarpThreads) {
    const unsigned lane = ThreadX() % kWarpThreads;
    const float mass = WarpSum(phi[r * kSectionFeatures + lane] * s[lane]);
    if (lane == 0) {
      partials[r * partial_stride] = 0;
      partials[r * partial_stride + 1] = mass;
    }
  }
  const unsigned column = ThreadX() % kColumns, group = ThreadX() / kColumns;
  const float* h = reinterpret_cast<const float*>(segment.record + place.h) +
                   (BlockY() * size_t(features) + first) * D + column * 4;
  float sum[R][4] = {};
  for (unsigned i = 0; i < kGroupFeatures; ++i) {
    const unsigned feature = group * kGroupFeatures + i;
    const Vec16 v = Load16(h + size_t(feature) * D);
    LOLA_UNROLL
    for (unsigned r = 0; r < R; ++r) {
      const float w = phi[r * kSectionFeatures + feature];
      LOLA_UNROLL
      for (unsigned j = 0; j < 4; ++j) sum[r][j] = fmaf(w, BitsToFloat(v.word[j]), sum[r][j]);
    }
  }
  LOLA_UNROLL
  for (unsigned r = 0; r < R; ++r) {
    LOLA_UNROLL
    for (unsigned j = 0; j < 4; ++j) {
      sums[r * kGroups * D + group * D + column * 4 + j] = sum[r][j];
    }
  }
  SyncThreads();
  MergeGroups(sums, kGroups, D, rows, kGroups * D, partials, partial_stride);
}

// Grid: tiles, query heads, sections (cache, window, linear). A section without live pairs writes
// only its mark: largest logit -infinity.
template <unsigned D, unsigned R>
LOLA_KERNEL LOLA_BOUNDS(kAttendThreads) AttendKernel(AttendParams p) {
  const Tile tile = p.tiles[BlockX()];
  const SegmentEntry segment = p.segments[tile.segment];
  const Plan& plan = *segment.plan;
  const uint32_t head = BlockY(), section = BlockZ();
  const uint32_t all = p.sections.cache + p.sections.window + p.sections.linear;
  const size_t partial_stride = size_t(p.shape.query_heads) * all * PartialFloats(D);
  float* partials = p.partials + tile.first_row * partial_stride +
                    (head * size_t(all) + section) * PartialFloats(D);
  PairSection s{};
  if (section >= p.sections.cache + p.sections.window) {
    const LayerPlace& place = plan.layers[p.layer];
    const bool used =
        !plan.softmax &&
        reinterpret_cast<const Counters*>(segment.record + place.counters)[head].absorbed > 0;
    if (used) {
      AttendState<D, R>(p, tile, segment, section - p.sections.cache - p.sections.window, partials,
                        partial_stride);
      return;
    }
  } else if (section >= p.sections.cache) {
    s = WindowSection(p, segment, section - p.sections.cache, head, tile);
  } else if (!plan.softmax) {
    s = CacheSection(p, segment, section, head);
  }
  if (LivePairs(s, tile, tile.rows - 1) == 0) {
    if (ThreadX() < tile.rows) partials[ThreadX() * partial_stride] = -INFINITY;
    return;
  }
  if (plan.cache_type == CacheType::kFloat32) {
    AttendPairs<float, D, R>(p, tile, s, partials, partial_stride);
  } else {
    AttendPairs<Bf16, D, R>(p, tile, s, partials, partial_stride);
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_ATTEND_CUH_
