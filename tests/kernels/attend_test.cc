// Attention against its reference: every mixing, window and cache fills, head sizes, row dtypes.
#include "kernels/attend/attend.h"

#include <string>

#include "kernels/core/float8.h"

#include "tests/kernels/kernel_test_util.h"

namespace lola::kernels {
namespace {

using test::Normal;
using test::WorstError;

struct Case {
  std::string name = "Base";
  size_t rows = 9;
  size_t head_dim = 64;
  size_t feature_dim = 128;
  size_t cached = 40;
  size_t window = 33;  // seen by row 0; causal
  size_t previous = 32;
  AttendMix mix = AttendMix::kShifted;
  Dtype dtype = Dtype::kFloat32;
  float query_scale = 1.0f;
};

// Buffers of one call. Dead pairs hold large finite numbers, so that reading them shows.
struct Call {
  explicit Call(const Case& c, uint64_t seed) : c(c) {
    AddSpan(c.cached, false, seed);
    AddSpan(c.previous, false, seed + 10);
    AddSpan(c.window, true, seed + 20);
    features = Normal(c.rows * c.feature_dim, seed + 30);
    for (float& value : features) value = std::exp(value) / static_cast<float>(c.feature_dim);
    h = Normal(c.feature_dim * c.head_dim, seed + 31, 5.0f);
    s = Normal(c.feature_dim, seed + 32);
    for (float& value : s) value = 1.0f + std::abs(value);
    out.resize(c.rows * Stride(), -7.0f);
    size_t pairs = 0;
    for (size_t i = 0; i < spans.size(); ++i) pairs += values[i].size() / c.head_dim;
    scratch.resize(AttendScratchFloats(pairs));
  }
  size_t Stride() const { return c.head_dim + 16; }

  void AddSpan(size_t pairs, bool causal, uint64_t seed) {
    if (pairs == 0) return;
    const size_t live = pairs + (causal ? c.rows - 1 : 0);
    const size_t whole = RoundUpToKeyBlock(live);
    keys.push_back(Normal(whole * c.head_dim, seed));
    values.push_back(Normal(whole * c.head_dim, seed + 1));
    queries.push_back(Normal(c.rows * c.head_dim, seed + 2, c.query_scale));
    for (size_t j = live; j < whole; ++j) {
      for (size_t i = 0; i < c.head_dim; ++i) {
        keys.back()[KeyOffset(j, i, c.head_dim)] = 1e6f;
        values.back()[j * c.head_dim + i] = 1e6f;
      }
    }
    for (const std::vector<float>* source : {&keys.back(), &values.back()}) {
      rounded.emplace_back();
      for (const float value : *source) rounded.back().push_back(ToBFloat16(value));
      codes.emplace_back(source->size());
      exponents.emplace_back(whole);
      const bool key = source == &keys.back();
      for (size_t j = 0; j < whole; ++j) {
        std::vector<float> row(c.head_dim);
        const auto at = [&](size_t i) {
          return key ? KeyOffset(j, i, c.head_dim) : j * c.head_dim + i;
        };
        for (size_t i = 0; i < c.head_dim; ++i) row[i] = (*source)[at(i)];
        exponents.back()[j] = RowExponent(row.data(), row.size());
        const float scale = RowScale(exponents.back()[j]);
        for (size_t i = 0; i < c.head_dim; ++i) codes.back()[at(i)] = ToFloat8(row[i] / scale);
      }
    }
    spans.push_back({.pairs = pairs, .causal = causal});
    masses.emplace_back(whole, 0.5f);
  }

  // Rows first .. first + count - 1 as a call of their own.
  AttendParams Params(size_t first, size_t count) {
    used = spans;
    for (size_t i = 0; i < used.size(); ++i) {
      const bool bf16 = c.dtype == Dtype::kBFloat16;
      used[i].keys = bf16 ? static_cast<const void*>(rounded[2 * i].data()) : keys[i].data();
      used[i].values =
          bf16 ? static_cast<const void*>(rounded[2 * i + 1].data()) : values[i].data();
      if (c.dtype == Dtype::kFloat8) {
        used[i].keys = codes[2 * i].data();
        used[i].values = codes[2 * i + 1].data();
        used[i].key_exponents = exponents[2 * i].data();
        used[i].value_exponents = exponents[2 * i + 1].data();
      }
      used[i].queries = queries[i].data() + first * c.head_dim;
      if (used[i].causal) used[i].pairs += first;
      used[i].mass = masses[i].data();
    }
    return {.spans = used.data(),
            .span_count = used.size(),
            .dtype = c.dtype,
            .rows = count,
            .head_dim = c.head_dim,
            .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
            .mix = c.mix,
            .features = features.data() + first * c.feature_dim,
            .h = h.data(),
            .s = s.data(),
            .feature_dim = c.feature_dim,
            .softmax_weight = 0.4f,
            .linear_weight = 0.6f,
            .epsilon = 1e-6f,
            .out = out.data() + first * Stride(),
            .out_stride = Stride(),
            .scratch = scratch.data()};
  }

  Case c;
  std::vector<AttendSpan> spans, used;
  std::vector<std::vector<float>> keys, values, queries, masses;
  std::vector<std::vector<BFloat16>> rounded;
  std::vector<std::vector<Float8>> codes;
  std::vector<std::vector<int8_t>> exponents;
  std::vector<float> features, h, s, out, scratch;
};

template <typename Change>
Case Vary(std::string name, Change change) {
  Case c;
  c.name = std::move(name);
  change(c);
  return c;
}

std::vector<Case> Cases() {
  std::vector<Case> cases = {
      Case{},
      Vary("OneRow", [](Case& c) { c.rows = 1; }),
      Vary("ManyRows", [](Case& c) { c.rows = 32; }),
      Vary("EmptyCache", [](Case& c) { c.cached = 0; }),
      Vary("FullCache", [](Case& c) { c.cached = 128; }),
      Vary("FirstToken", [](Case& c) { c.cached = c.previous = 0, c.window = 1; }),
      Vary("WindowPartOfABlock", [](Case& c) { c.window = 3, c.previous = 0; }),
      Vary("WindowFull", [](Case& c) { c.window = 56, c.previous = 64; }),
      Vary("Plain", [](Case& c) { c.mix = AttendMix::kPlain; }),
      Vary("RowMax", [](Case& c) { c.mix = AttendMix::kRowMax; }),
      Vary("LargeLogits", [](Case& c) { c.query_scale = 60.0f; }),
      Vary("LargeLogitsRowMax", [](Case& c) { c.query_scale = 60.0f, c.mix = AttendMix::kRowMax; }),
      Vary("SmallFeatures", [](Case& c) { c.feature_dim = 64; }),
  };
  for (const size_t d : {16, 32, 48, 128}) {
    cases.push_back(Vary("HeadDim" + std::to_string(d), [&](Case& c) { c.head_dim = d; }));
  }
  for (const size_t d : {32, 64, 128}) {
    cases.push_back(Vary("Bfloat16HeadDim" + std::to_string(d),
                         [&](Case& c) { c.head_dim = d, c.dtype = Dtype::kBFloat16; }));
    cases.push_back(Vary("Float8HeadDim" + std::to_string(d),
                         [&](Case& c) { c.head_dim = d, c.dtype = Dtype::kFloat8; }));
  }
  return cases;
}

class AttendTest : public ::testing::TestWithParam<Case> {};

TEST_P(AttendTest, AgreesWithTheReference) {
  Call got(GetParam(), 1);
  Call want(GetParam(), 1);
  EXPECT_EQ(Attend(got.Params(0, got.c.rows)), 0u);
  EXPECT_EQ(AttendRef(want.Params(0, want.c.rows)), 0u);
  EXPECT_LE(WorstError(got.out, want.out), GetParam().query_scale > 10 ? 2e-3 : 2e-5 * 4);
  for (size_t i = 0; i < got.masses.size(); ++i) {
    // A weight is at most 1 and as exact as an output; a pair gets one from every row.
    EXPECT_LE(WorstError(got.masses[i], want.masses[i]),
              (GetParam().query_scale > 10 ? 2e-3 : 2e-6) * static_cast<double>(got.c.rows));
    const size_t live = got.spans[i].pairs + (got.spans[i].causal ? got.c.rows - 1 : 0);
    for (size_t j = live; j < got.masses[i].size(); ++j) EXPECT_EQ(got.masses[i][j], 0.5f);
  }
}

TEST(AttendTest, WeightsOfAPlainRowAddUpToOne) {
  Case c;
  c.mix = AttendMix::kPlain;
  Call call(c, 1);
  Attend(call.Params(0, c.rows));
  double sum = 0;
  for (const std::vector<float>& masses : call.masses) {
    for (const float mass : masses) sum += mass - 0.5;
  }
  EXPECT_NEAR(sum, static_cast<double>(c.rows), 1e-4);
}

TEST_P(AttendTest, ARowDoesNotDependOnTheRowsBesideIt) {
  Call all(GetParam(), 2);
  Attend(all.Params(0, all.c.rows));
  for (size_t group = 1; group < 6; ++group) {
    Call some(GetParam(), 2);
    for (size_t row = 0; row < some.c.rows; row += group) {
      Attend(some.Params(row, std::min(group, some.c.rows - row)));
    }
    ASSERT_TRUE(test::SameBits(some.out.data(), all.out.data(), all.out.size()))
        << "in groups of " << group;
    ASSERT_EQ(some.masses, all.masses) << "in groups of " << group;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttendTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

TEST(AttendTest, VeryNegativeLogitsLeaveTheLinearPart) {
  Case c;
  c.cached = c.previous = 0;
  c.rows = 1;
  c.window = 1;
  Call call(c, 3);
  for (size_t i = 0; i < c.head_dim; ++i) {
    call.keys[0][KeyOffset(0, i, c.head_dim)] = 20.0f;
    call.queries[0][i] = -20.0f;
  }
  EXPECT_EQ(Attend(call.Params(0, 1)), 0u);
  Call want = call;
  AttendRef(want.Params(0, 1));
  EXPECT_LE(WorstError(call.out, want.out), 1e-4);
  call.c.mix = AttendMix::kPlain;  // one pair: its value, however small its logit
  EXPECT_EQ(Attend(call.Params(0, 1)), 0u);
  EXPECT_NEAR(call.out[5], call.values[0][5], 1e-6);
}

// A row that was not finite reads as NaN: no weight of zero hides it.
TEST(AttendTest, Float8RowsThatWereNotFiniteAreCounted) {
  for (const bool in_key : {true, false}) {
    Case c;
    c.dtype = Dtype::kFloat8;
    Call call(c, 4);
    const size_t which = in_key ? 0 : 1;
    call.exponents[which][3] = kRowNotFinite;
    for (size_t i = 0; i < c.head_dim; ++i) {
      call.codes[which][in_key ? KeyOffset(3, i, c.head_dim) : 3 * c.head_dim + i] = Float8{};
    }
    EXPECT_EQ(Attend(call.Params(0, c.rows)), c.rows) << in_key;
  }
}

TEST(AttendTest, RowsWithNanOrInfinityAreCounted) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const AttendMix mix : {AttendMix::kPlain, AttendMix::kShifted, AttendMix::kRowMax}) {
      Case c;
      c.mix = mix;
      Call key(c, 4);
      key.keys[1][KeyOffset(3, 5, c.head_dim)] = bad;
      const size_t broken = Attend(key.Params(0, c.rows));
      // A logit of -inf is a weight of zero: only the other signs break a row.
      EXPECT_TRUE(std::isnan(bad) ? broken == c.rows : broken > 0) << bad;
      Call value(c, 5);
      value.values[0][17] = bad;
      EXPECT_EQ(Attend(value.Params(0, c.rows)), c.rows) << bad;
      Call query(c, 6);
      query.queries[2][2 * c.head_dim + 1] = bad;
      EXPECT_EQ(Attend(query.Params(0, c.rows)), 1u) << bad;
    }
  }
}

}  // namespace
}  // namespace lola::kernels
