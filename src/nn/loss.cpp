#include "nn/loss.hpp"

#include <algorithm>
#include <cmath>

namespace syncbn {

LossResult softmax_cross_entropy(const Tensor& logits, std::span<const int> labels, double smoothing, double scale,
                                 const Tensor& d_logits) {
  const std::int64_t classes = logits.shape.c();
  const double off_target = smoothing / static_cast<double>(classes);
  LossResult result;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const float* z = logits.sample(static_cast<std::int64_t>(i));
    const std::int64_t best = std::max_element(z, z + classes) - z;
    const double top = z[best];
    double denominator = 0, off_sum = 0;
    for (std::int64_t k = 0; k < classes; ++k) {
      denominator += std::exp(z[k] - top);
      off_sum += z[k] - top;
    }
    const double log_denominator = std::log(denominator);
    const double target = z[labels[i]] - top;
    // -sum_k q_k (z_k - top - log_denominator) with q = (1 - s) [k = label] + s / K
    result.loss_sum += log_denominator - (1 - smoothing) * target - off_target * off_sum;
    result.correct += best == labels[i] && std::isfinite(denominator);
    if (!d_logits) continue;
    float* d = d_logits.sample(static_cast<std::int64_t>(i));
    for (std::int64_t k = 0; k < classes; ++k) {
      const double probability = std::exp(z[k] - top) / denominator;
      d[k] = static_cast<float>(scale * (probability - off_target - (k == labels[i] ? 1 - smoothing : 0.0)));
    }
  }
  return result;
}

}  // namespace syncbn
