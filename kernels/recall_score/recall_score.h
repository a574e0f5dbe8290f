// Self-recall error: how badly the recurrent state recalls a pair from its own key.
//
//   v_hat = phi^T H / (phi . s + epsilon), v_hat = 0 when the state is empty
//   score = || v_hat - v ||^2
// With leave_self_out the pair's own contribution is taken out first (H and s must contain it):
//   v_hat = (phi^T H - (phi . phi) v) / (phi . s - phi . phi + epsilon)
//
// Any thread; each row alone, in one order. Tolerance against the double reference: 1e-4 relative
// plus 1e-6 of |v|^2.
#ifndef LOLA_KERNELS_RECALL_SCORE_RECALL_SCORE_H_
#define LOLA_KERNELS_RECALL_SCORE_RECALL_SCORE_H_

#include <cstddef>

namespace lola::kernels {

struct RecallScoreParams {
  const float* features = nullptr;  // [rows, feature_dim]
  const float* values = nullptr;    // [rows, head_dim]
  const float* h = nullptr;         // [feature_dim, head_dim]
  const float* s = nullptr;         // [feature_dim]
  size_t rows = 0;
  size_t feature_dim = 0;  // multiple of 16
  size_t head_dim = 0;     // multiple of 16
  float epsilon = 1e-6f;
  bool empty_state = false;
  bool leave_self_out = false;
  float* scores = nullptr;  // [rows]
};

void RecallScore(const RecallScoreParams& params);
void RecallScoreRef(const RecallScoreParams& params);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_RECALL_SCORE_RECALL_SCORE_H_
