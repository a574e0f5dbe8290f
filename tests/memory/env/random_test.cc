#include "memory/env/random.h"

#include <gtest/gtest.h>

#include <set>

namespace lola::memory {
namespace {

TEST(NewUid, GivesDistinctHexDigits) {
  std::set<std::string> uids;
  for (int i = 0; i < 1000; ++i) {
    const std::string uid = NewUid();
    ASSERT_EQ(uid.size(), 32u);
    ASSERT_EQ(uid.find_first_not_of("0123456789abcdef"), std::string::npos) << uid;
    uids.insert(uid);
  }
  EXPECT_EQ(uids.size(), 1000u);
}

}  // namespace
}  // namespace lola::memory
