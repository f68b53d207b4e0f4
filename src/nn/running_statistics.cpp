#include "nn/running_statistics.hpp"

#include <cmath>

namespace syncbn {

RunningStatistics::RunningStatistics(const LayerContext& context, int layer)
    : context_(context),
      state_(context.state.norm_state(layer)),
      // One worker speaks for its group, so that the sum over workers is the average over groups. What is not
      // summed, because there is just one group, every worker keeps.
      speaks_(context.state.norm().whole_world || context.group.rank() == 0) {}

void RunningStatistics::begin_update() {
  batches_this_update_ = 0;
  if (!state_) return;
  context_.gradient[static_cast<std::size_t>(state_->kept.offset)] =
      speaks_ ? 1.0f / static_cast<float>(context_.groups) : 0.0f;
}

double RunningStatistics::momentum(const Pass& pass) const {
  const NormSettings& norm = context_.state.norm();
  if (norm.options.cumulative) return 1.0 / static_cast<double>(state_->batches_tracked + batches_this_update_);
  if (norm.momentum_reference_batch == 0) return norm.options.momentum;
  const double batches = static_cast<double>(pass.batch_samples) / static_cast<double>(norm.momentum_reference_batch);
  return 1 - std::pow(1 - norm.options.momentum, batches);
}

void RunningStatistics::contribute(const Pass& pass, std::int64_t count, std::span<const double> mean,
                                   std::span<const double> var, double unbiased) {
  if (!state_) return;
  ++batches_this_update_;
  if (count == 0 || !speaks_) return;
  const double momentum = this->momentum(pass);
  const double share = momentum / context_.groups;
  float& kept = context_.gradient[static_cast<std::size_t>(state_->kept.offset)];
  kept = static_cast<float>(kept * (1 - momentum));
  const auto fold = [&](FlatRange range, std::span<const double> value, double factor) {
    float* out = context_.gradient.data() + range.offset;
    for (std::size_t c = 0; c < value.size(); ++c) {
      out[c] = static_cast<float>((1 - momentum) * out[c] + share * factor * value[c]);
    }
  };
  fold(state_->mean, mean, 1);
  fold(state_->var, var, unbiased);
}

}  // namespace syncbn
