#include "nn/normalization/running_statistics.hpp"

#include <cmath>

namespace syncbn {

RunningStatistics::RunningStatistics(const LayerContext& context, int layer)
    : context_(context),
      state_(context.state.norm_state(layer)),
      // One worker contributes for its group, so that the sum over workers is the average over groups. With a single
      // group nothing is summed, and every worker contributes to its own copy.
      speaks_(context.state.norm().whole_world || context.group.rank() == 0) {}

void RunningStatistics::begin_update() {
  batches_this_update_ = 0;
  if (!state_) return;
  kept_ = speaks_ ? 1.0f / static_cast<float>(context_.groups) : 0.0f;
  // On a device, contribute() writes it.
  if (!context_.backend.device()) context_.gradient[state_->kept.offset] = kept_;
}

double RunningStatistics::momentum(const Pass& pass) const {
  const NormSettings& norm = context_.state.norm();
  if (norm.options.cumulative) return 1.0 / static_cast<double>(state_->batches_tracked + batches_this_update_);
  if (norm.momentum_reference_batch == 0) return norm.options.momentum;
  const double batches = static_cast<double>(pass.batch_samples) / static_cast<double>(norm.momentum_reference_batch);
  return 1 - std::pow(1 - norm.options.momentum, batches);
}

std::optional<RunningStatistics::Share> RunningStatistics::next(const Pass& pass, std::int64_t count) {
  ++batches_this_update_;
  if (count == 0 || !speaks_) return std::nullopt;
  const double momentum = this->momentum(pass);
  kept_ = static_cast<float>(kept_ * (1 - momentum));
  return Share{momentum, momentum / context_.groups};
}

void RunningStatistics::contribute(const Pass& pass, std::int64_t count, std::span<const double> mean,
                                   std::span<const double> var, double unbiased) {
  if (!state_) return;
  const std::optional<Share> share = next(pass, count);
  const ops::Device* device = context_.backend.device();
  const auto fold = [&](FlatRange range, std::span<const double> value, double factor) {
    float* out = context_.gradient.data() + range.offset;
    if (device) return device->blend(value, 1 - share->momentum, share->share * factor, out);
    for (std::size_t c = 0; c < value.size(); ++c) {
      out[c] = static_cast<float>((1 - share->momentum) * out[c] + share->share * factor * value[c]);
    }
  };
  if (share) {
    fold(state_->mean, mean, 1);
    fold(state_->var, var, unbiased);
  }
  const double kept = kept_;
  if (device) return device->blend({&kept, 1}, 0, 1, context_.gradient.data() + state_->kept.offset);
  context_.gradient[state_->kept.offset] = kept_;
}

void RunningStatistics::contribute(const Pass& pass, std::int64_t count, ops::Normalization& statistics) {
  if (!state_) return;
  const Share share = next(pass, count).value_or(Share{0, 0});
  float* gradient = context_.gradient.data();
  statistics.fold_statistics(share.momentum, share.share, gradient + state_->mean.offset, gradient + state_->var.offset,
                             gradient + state_->kept.offset, kept_);
}

}  // namespace syncbn
