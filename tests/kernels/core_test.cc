#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

#include "kernels/core/bf16.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu.h"
#include "kernels/core/float8.h"
#include "kernels/core/thread_pool.h"
#include "tests/kernels/kernel_test_util.h"

namespace lola::kernels {
namespace {

TEST(Float8Test, EveryNumberIsItselfAndMidpointsGoToEven) {
  for (uint32_t code = 0; code < 0x7f; ++code) {
    const float value = ToFloat(Float8{static_cast<uint8_t>(code)});
    EXPECT_EQ(ToFloat8(value).bits, code);
    EXPECT_EQ(ToFloat8(-value).bits, code | 0x80);
    if (code == 0x7e) break;
    const float next = ToFloat(Float8{static_cast<uint8_t>(code + 1)});
    EXPECT_LT(value, next);
    const float middle = (value + next) / 2;  // exact
    EXPECT_EQ(ToFloat8(middle).bits, code + code % 2);
    EXPECT_EQ(ToFloat8(std::nextafter(middle, 0.0f)).bits, code);
    EXPECT_EQ(ToFloat8(std::nextafter(middle, 500.0f)).bits, code + 1);
  }
  EXPECT_EQ(ToFloat(Float8{0x7e}), 448.0f);
  EXPECT_EQ(ToFloat(Float8{0x01}), 0x1p-9f);
  EXPECT_EQ(ToFloat8(464.0f).bits, 0x7e);
}

TEST(Float8Test, ARowThatWasRoundedStaysAsItIs) {
  for (int trial = 0; trial < 2000; ++trial) {
    const float size = std::ldexp(1.0f, trial % 200 - 100);
    std::vector<float> row = test::Normal(32, trial, size);
    const int8_t exponent = RowExponent(row.data(), row.size());
    const float scale = RowScale(exponent);
    float largest = 0;
    for (const float value : row) largest = std::max(largest, std::fabs(value));
    EXPECT_LE(largest, 464 * scale);
    if (exponent > -100) {
      EXPECT_GT(largest, 232 * scale);
    }
    for (float& value : row) {
      const float rounded = ToFloat(ToFloat8(value / scale)) * scale;
      EXPECT_LE(std::fabs(rounded - value), std::max(std::fabs(value) / 16, scale * 0x1p-10f));
      value = rounded;
    }
    EXPECT_EQ(RowExponent(row.data(), row.size()), exponent) << trial;
    for (const float value : row) EXPECT_EQ(ToFloat(ToFloat8(value / scale)) * scale, value);
  }
}

TEST(Float8Test, RowsOfNothingAndOfNoNumber) {
  std::vector<float> row(16, 0.0f);
  EXPECT_EQ(RowExponent(row.data(), 16), 0);
  row[7] = 1e-38f;
  EXPECT_EQ(RowExponent(row.data(), 16), 0);  // rounds to zeros
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    row[7] = bad;
    EXPECT_EQ(RowExponent(row.data(), 16), kRowNotFinite);
  }
  EXPECT_TRUE(std::isnan(0.0f * RowScale(kRowNotFinite)));
  row[7] = 3e38f;
  EXPECT_TRUE(std::isfinite(RowScale(RowExponent(row.data(), 16))));
}

TEST(ThreadPoolTest, RunsEveryIndexOnceWithValidWorkers) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (const size_t n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> seen(n);
      std::atomic<bool> bad{false};
      pool.ParallelFor(n, [&](size_t i, int worker) {
        if (worker < 0 || worker >= threads) bad = true;
        seen[i].fetch_add(1);
      });
      for (size_t i = 0; i < n; ++i) EXPECT_EQ(seen[i].load(), 1) << i;
      EXPECT_FALSE(bad);
    }
  }
}

TEST(ThreadPoolTest, ManySmallJobsInARowAllFinish) {
  ThreadPool pool(3);
  std::atomic<int> total{0};
  for (int job = 0; job < 3000; ++job) {
    pool.ParallelFor(4, [&](size_t, int) { total.fetch_add(1, std::memory_order_relaxed); });
  }
  EXPECT_EQ(total.load(), 12000);
}

TEST(ThreadPoolTest, CallersFromManyThreadsNeverShareAWorker) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::vector<std::atomic<int>> inside(threads);
    std::atomic<int> clashes{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 3; ++c) {
      callers.emplace_back([&] {
        for (int job = 0; job < 200; ++job) {
          pool.ParallelFor(5, [&](size_t, int worker) {
            if (inside[worker].fetch_add(1) != 0) ++clashes;
            inside[worker].fetch_sub(1);
          });
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(clashes.load(), 0);
  }
}

TEST(ThreadPoolTest, WritesOfWorkersAreVisibleToTheCaller) {
  ThreadPool pool(4);
  std::vector<int> data(64);
  for (int job = 1; job < 300; ++job) {
    pool.ParallelFor(data.size(), [&](size_t i, int) { data[i] = job; });
    for (const int value : data) ASSERT_EQ(value, job);
  }
}

TEST(Bf16Test, RoundsToNearestEvenAndKeepsSpecials) {
  EXPECT_EQ(ToFloat(ToBFloat16(1.0f)), 1.0f);
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // tie to even
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_TRUE(std::isinf(ToFloat(ToBFloat16(INFINITY))));
  EXPECT_TRUE(std::isinf(ToFloat(ToBFloat16(3.4e38f))));
  EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(NAN))));
  EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_EQ(std::signbit(ToFloat(ToBFloat16(-0.0f))), true);
}

TEST(CpuTest, ClassIsAKnownWordAndAgreesWithTheInstructions) {
  const std::string_view name = InstructionClass();
  const std::string_view known[] = {"amxbf16", "avx512bf16", "avx512", "avx2", "neon", "scalar"};
  EXPECT_NE(std::find(std::begin(known), std::end(known), name), std::end(known)) << name;
  EXPECT_EQ(name, InstructionClasses().front());
  EXPECT_EQ(name == "amxbf16", HasBf16Tiles());
  EXPECT_EQ(name == "amxbf16" || name == "avx512bf16", HasBf16Dot());
}

TEST(CpuTest, ALimitIsKeptAndComesFirst) {
  // Runs of lola_test_classes name the class they limited this program to.
  const char* limit = std::getenv("LOLA_TEST_INSTRUCTIONS");
  if (limit != nullptr) {
    EXPECT_EQ(InstructionClass(), limit);
  }
  EXPECT_EQ(InstructionClass(), InstructionClasses().front());
  EXPECT_DEATH(LimitInstructionClass("scalar"), "the kernels may have run already");
}

TEST(CheckDeathTest, PrintsConditionValuesAndMessage) {
  EXPECT_DEATH(LOLA_CHECK_EQ(2 + 2, 5) << "arithmetic", "2 \\+ 2.*4 vs 5.*arithmetic");
  LOLA_CHECK(true) << "not evaluated";
}

}  // namespace
}  // namespace lola::kernels
