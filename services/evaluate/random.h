// Random numbers of the evaluation: SplitMix64, so that a task's text is the same on every machine
// and with every compiler. Cheap to make: every sample and every line of a haystack has its own.
// Not thread-safe; plain value.
#ifndef LOLA_SERVICES_EVALUATE_RANDOM_H_
#define LOLA_SERVICES_EVALUATE_RANDOM_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace lola::evaluate {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // An own sequence for (seed, a, b): sample a, line b.
  static Random For(uint64_t seed, uint64_t a, uint64_t b = 0);

  uint64_t Bits();
  uint64_t Below(uint64_t bound);                 // uniform in [0, bound); REQUIRES: bound > 0
  uint64_t Between(uint64_t low, uint64_t high);  // both ends included
  double Uniform();                               // [0, 1)
  // `count` different numbers below `bound`, in random order. REQUIRES: count <= bound.
  std::vector<uint64_t> Distinct(uint64_t bound, uint64_t count);

  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Below(i)]);
  }

 private:
  uint64_t state_;
};

// One number in [0, 1) for each of `count` samples: one from every stretch of 1 / count, in random
// order, so that depths cover the text evenly however few samples there are.
std::vector<double> Stratified(uint64_t seed, uint64_t count);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_RANDOM_H_
