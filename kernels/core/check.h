// LOLA_CHECK: programmer errors end the process with file, line and both values, in every build.
// Operating errors (bad input, full arena, broken bytes) are never checks: they are absl::Status.
//
//   LOLA_CHECK(rows > 0) << "empty piece at position " << position;
//   LOLA_CHECK_EQ(input.size(), out * in);
#ifndef LOLA_KERNELS_CORE_CHECK_H_
#define LOLA_KERNELS_CORE_CHECK_H_

#include <ostream>

namespace lola {

// Collects the message; the destructor prints it and aborts.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  ~CheckFailure();
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  std::ostream& stream();
};

// Gives both arms of the conditional operator type void; binds weaker than << and stronger than ?:.
struct CheckVoidify {
  void operator&(std::ostream&) {}
};

}  // namespace lola

#define LOLA_CHECK(condition)          \
  (__builtin_expect(!!(condition), 1)) \
      ? (void)0                        \
      : ::lola::CheckVoidify() & ::lola::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define LOLA_CHECK_OP(a, b, op) LOLA_CHECK((a)op(b)) << "(" << (a) << " vs " << (b) << ") "
#define LOLA_CHECK_EQ(a, b) LOLA_CHECK_OP(a, b, ==)
#define LOLA_CHECK_NE(a, b) LOLA_CHECK_OP(a, b, !=)
#define LOLA_CHECK_LT(a, b) LOLA_CHECK_OP(a, b, <)
#define LOLA_CHECK_LE(a, b) LOLA_CHECK_OP(a, b, <=)
#define LOLA_CHECK_GT(a, b) LOLA_CHECK_OP(a, b, >)
#define LOLA_CHECK_GE(a, b) LOLA_CHECK_OP(a, b, >=)

#endif  // LOLA_KERNELS_CORE_CHECK_H_
