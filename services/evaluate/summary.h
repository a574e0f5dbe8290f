// What a run's answers amount to: scores with their intervals, by depth, distance and position.
// Pure functions; any thread.
#ifndef LOLA_SERVICES_EVALUATE_SUMMARY_H_
#define LOLA_SERVICES_EVALUATE_SUMMARY_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "services/evaluate/runner.h"

namespace lola::evaluate {

// 95 % Wilson interval in percent. REQUIRES: count > 0.
std::pair<double, double> WilsonInterval(uint64_t right, uint64_t count);
// The same for a mean of `count` scores in 0..1: exact for right-or-wrong scores, and never
// narrower than it need be for scores between (their variance is smaller).
std::pair<double, double> WilsonOfMean(double mean, uint64_t count);

// 95 % interval of the mean bits per token, as if tokens were independent (neighbours are not
// quite: the true interval is a little wider). REQUIRES: more than one token, with squares.
std::pair<double, double> MeanInterval(const BitCount& count);

struct Tally {
  uint64_t asked = 0, right = 0;
  void Add(bool found) {
    ++asked;
    right += found ? 1 : 0;
  }
};

struct Summary {
  uint64_t samples = 0, questions = 0, references = 0, found = 0;
  double score = 0.0, low = 0.0, high = 0.0;  // percent: mean over questions, 95 % interval
  std::array<Tally, 10> by_depth;             // of references: told in which tenth of the stream
  std::map<uint64_t, Tally> by_distance;      // from told to the answer, tokens: lower powers of 2
  std::map<uint64_t, Tally> by_position;      // of the question in the stream: the same
  std::map<std::string, uint64_t> updates;    // "newest", "older", "other"
  std::map<uint64_t, BitCount> bits_by_position, bits_by_multiple;
};

// `results` in any order.
Summary Summarise(const std::vector<SampleResult>& results);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_SUMMARY_H_
