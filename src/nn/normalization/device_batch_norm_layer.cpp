#include "nn/normalization/device_batch_norm_layer.hpp"

#include <cmath>

#include "nn/normalization/statistics_pass.hpp"

namespace syncbn {

DeviceBatchNormLayer::DeviceBatchNormLayer(const LayerContext& context, int index, const LayerTensors& tensors)
    : backend_(context.backend),
      t_(tensors),
      name_(context.spec(index).name),
      members_(context.group.size()),
      sums_(*context.sums),
      whole_world_(context.state.norm().whole_world),
      alone_(members_ == 1),
      exchanges_(!alone_ && (tensors.dx || whole_world_)),
      parameters_(context, index),
      running_(context, index),
      population_(context, index),
      population_mean_(backend_.allocate(population_.mean().size_bytes())),
      population_var_(backend_.allocate(population_.moments().size_bytes())),
      relu_(fused_relu(context.spec(index))),
      mask_(relu_mask(context, relu_, tensors.x)),
      norm_(context.backend.device()->normalization(tensors.x.shape.c(), context.state.norm().options.eps)) {}

void DeviceBatchNormLayer::begin(const Pass& pass) {
  if (uses_batch(pass)) return;
  if (pass.statistics == Statistics::precise) {
    backend_.upload(population_.mean().data(), population_mean_.data(), population_.mean().size_bytes());
    backend_.upload(population_.moments().data(), population_var_.data(), population_.moments().size_bytes());
    norm_->use_statistics(population_mean_.as<float>(), population_var_.as<float>(), parameters_.affine());
  } else {
    norm_->use_statistics(running_.mean_place(), running_.var_place(), parameters_.affine());
  }
}

void DeviceBatchNormLayer::accumulate(const Pass&, ops::Samples samples) {
  norm_->sums(t_.x, samples.count(), alone_, parameters_.affine());
}

void DeviceBatchNormLayer::exchange(const Pass& pass) {
  if (pass.n == 0) accumulate(pass, {0, 0});
  std::int64_t count = pass.n * t_.x.shape.spatial();
  if (!alone_) {
    sums_.start(norm_->message(), 1 + 2 * t_.x.shape.c(), static_cast<double>(count), {name_, pass.step});
    const GroupSums::Sum sum = sums_.finish();
    count = std::llround(sum.head);
    norm_->finish(sum.values, parameters_.affine());
  }
  if (pass.mode == Mode::train) require_variance("batch_norm", name_, pass.step, count, members_);
  count_ = count;
  if (pass.population) {
    sums_.settle();
    const BatchStatistics batch = statistics();
    population_.add(count, batch.mean, batch.var);
  }
  if (pass.mode == Mode::train) running_.contribute(pass, count, *norm_);
}

void DeviceBatchNormLayer::accumulate_backward(const Pass&, ops::Samples samples) {
  norm_->backward_sums(t_.x, t_.dy, samples.count(), relu_, mask_.as<std::uint8_t>(), alone_);
}

// Weight gradients queued after this run while the message is under way.
void DeviceBatchNormLayer::start_exchange_backward(const Pass& pass) {
  if (pass.n == 0) accumulate_backward(pass, {0, 0});
  gradient_sums_ = norm_->backward_message();
  if (exchanges_) sums_.start(gradient_sums_, 2 * t_.x.shape.c(), 0, {name_, pass.step});
}

void DeviceBatchNormLayer::finish_exchange_backward(const Pass&) {
  if (!exchanges_) return;
  const double* sum = sums_.finish().values;
  norm_->finish_backward(sum);
  if (whole_world_) gradient_sums_ = sum;
}

void DeviceBatchNormLayer::backward(const Pass&, ops::Samples samples) {
  if (!t_.dx && !t_.dr) return;
  norm_->backward(t_.x, t_.dy, t_.dx, t_.dr, samples.count(), relu_, mask_.as<std::uint8_t>(), t_.accumulate_dx,
                  t_.accumulate_dr);
}

void DeviceBatchNormLayer::backward_parameters(const Pass&) {
  norm_->add_parameter_gradients(gradient_sums_, parameters_.d_weight(), parameters_.d_bias());
}

BatchStatistics DeviceBatchNormLayer::statistics() const {
  const auto channels = static_cast<std::size_t>(t_.x.shape.c());
  BatchStatistics result{count_, std::vector<double>(channels), std::vector<double>(channels)};
  norm_->statistics(result.mean, result.var);
  return result;
}

bool DeviceBatchNormLayer::local_finite() const {
  std::vector<double> own(1 + 2 * static_cast<std::size_t>(t_.x.shape.c()));
  backend_.download(norm_->message(), own.data(), own.size() * sizeof(double));
  return all_finite(own);
}

}  // namespace syncbn
