#include "kernels/recall_score/recall_score.h"

namespace lola::kernels {

void RecallScoreRef(const RecallScoreParams& p) {
  for (size_t r = 0; r < p.rows; ++r) {
    const float* phi = p.features + r * p.feature_dim;
    const float* v = p.values + r * p.head_dim;
    double mass = p.epsilon;
    double own = 0;
    for (size_t f = 0; f < p.feature_dim; ++f) {
      mass += static_cast<double>(phi[f]) * p.s[f];
      own += static_cast<double>(phi[f]) * phi[f];
    }
    if (p.leave_self_out) mass -= own;
    double score = 0;
    for (size_t i = 0; i < p.head_dim; ++i) {
      double recalled = 0;
      for (size_t f = 0; f < p.feature_dim; ++f) {
        recalled += static_cast<double>(phi[f]) * p.h[f * p.head_dim + i];
      }
      if (p.leave_self_out) recalled -= own * v[i];
      const double error = (p.empty_state ? 0.0 : recalled / mass) - v[i];
      score += error * error;
    }
    p.scores[r] = static_cast<float>(score);
  }
}

}  // namespace lola::kernels
