#include "services/evaluate/random.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace lola::evaluate {

Random Random::For(uint64_t seed, uint64_t a, uint64_t b) {
  Random mixed(seed);
  mixed.state_ = mixed.Bits() ^ (a * 0xD1342543DE82EF95ull);
  mixed.state_ = mixed.Bits() ^ (b * 0xAF251AF3B0F025B5ull);
  mixed.state_ = mixed.Bits();
  return mixed;
}

uint64_t Random::Bits() {
  state_ += 0x9E3779B97F4A7C15ull;
  uint64_t x = state_;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

uint64_t Random::Below(uint64_t bound) {
  LOLA_CHECK_GT(bound, 0u);
  // The bias of the multiply-shift is below bound / 2^64.
  return static_cast<uint64_t>((static_cast<unsigned __int128>(Bits()) * bound) >> 64);
}

uint64_t Random::Between(uint64_t low, uint64_t high) { return low + Below(high - low + 1); }

double Random::Uniform() { return static_cast<double>(Below(uint64_t{1} << 53)) * 0x1p-53; }

std::vector<uint64_t> Random::Distinct(uint64_t bound, uint64_t count) {
  LOLA_CHECK_LE(count, bound);
  // Floyd's method: as many draws as numbers, whatever the bound.
  std::vector<uint64_t> chosen;
  for (uint64_t top = bound - count; top < bound; ++top) {
    const uint64_t draw = Below(top + 1);
    const bool taken = std::find(chosen.begin(), chosen.end(), draw) != chosen.end();
    chosen.push_back(taken ? top : draw);
  }
  Shuffle(chosen);
  return chosen;
}

std::vector<double> Stratified(uint64_t seed, uint64_t count) {
  Random random = Random::For(seed, 0x57A7);
  std::vector<double> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    values[i] = (static_cast<double>(i) + random.Uniform()) / static_cast<double>(count);
  }
  random.Shuffle(values);
  return values;
}

}  // namespace lola::evaluate
