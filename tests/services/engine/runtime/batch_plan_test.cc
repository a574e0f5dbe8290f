#include "services/engine/runtime/batch_plan.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace lola::engine {
namespace {

constexpr RowLimits kLimits{64, 16};

TEST(BatchPlan, PrefillAloneUsesTheWholePass) {
  const std::vector<RowDemand> demands = {{1000, false}};
  EXPECT_EQ(PlanRows(demands, kLimits), std::vector<uint32_t>({64}));
}

TEST(BatchPlan, PrefillBesideDecodersIsBounded) {
  const std::vector<RowDemand> demands = {{1000, false}, {1, true}, {1, true}};
  EXPECT_EQ(PlanRows(demands, kLimits), std::vector<uint32_t>({16, 1, 1}));
}

TEST(BatchPlan, ManyDecodersLeavePrefillItsShare) {
  std::vector<RowDemand> demands(100, {1, true});
  demands.push_back({1000, false});
  const auto rows = PlanRows(demands, kLimits);
  EXPECT_EQ(rows.back(), 16u);
  EXPECT_EQ(std::accumulate(rows.begin(), rows.end(), 0u), 64u);
}

TEST(BatchPlan, ShortPrefillsLeaveTheirRestToLongOnes) {
  const std::vector<RowDemand> demands = {{1000, false}, {3, false}};
  EXPECT_EQ(PlanRows(demands, kLimits), std::vector<uint32_t>({61, 3}));
}

TEST(BatchPlan, NothingToDoGivesNothing) {
  const std::vector<RowDemand> demands = {{0, false}, {0, true}};
  EXPECT_EQ(PlanRows(demands, kLimits), std::vector<uint32_t>({0, 0}));
}

TEST(BatchPlan, AnyDemandsStayWithinLimitsAndMoveOn) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    const RowLimits limits{static_cast<uint32_t>(2 + random() % 100), 1};
    std::vector<RowDemand> demands(random() % 60);
    bool any = false, any_decode = false;
    for (RowDemand& demand : demands) {
      demand.decode = random() % 2;
      demand.rows = demand.decode ? random() % 2 : random() % 300;
      any = any || demand.rows > 0;
      any_decode = any_decode || (demand.decode && demand.rows > 0);
    }
    const auto rows = PlanRows(demands, limits);
    uint64_t total = 0, prefill = 0;
    for (size_t i = 0; i < demands.size(); ++i) {
      EXPECT_LE(rows[i], demands[i].rows);
      total += rows[i];
      if (!demands[i].decode) prefill += rows[i];
    }
    EXPECT_LE(total, limits.step_rows);
    if (any) {
      EXPECT_GT(total, 0u);
    }
    if (any_decode) {
      EXPECT_LE(prefill, limits.prefill_rows_beside_decode);
    }
  }
}

}  // namespace
}  // namespace lola::engine
