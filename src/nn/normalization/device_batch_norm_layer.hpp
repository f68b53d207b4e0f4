#pragma once

#include <memory>

#include "nn/normalization/gamma_beta.hpp"
#include "nn/normalization/norm_layer.hpp"
#include "nn/normalization/running_statistics.hpp"
#include "ops/device.hpp"

namespace syncbn {

/// BatchNormLayer on a device with memory of its own, where its messages are also summed if possible (see GroupSums).
class DeviceBatchNormLayer : public NormLayer {
 public:
  DeviceBatchNormLayer(const LayerContext& context, int index, const LayerTensors& tensors);

  void begin_update() override { running_.begin_update(); }
  bool uses_batch(const Pass& pass) const override { return running_.uses_batch(pass); }
  bool repeats() const override { return running_.repeats(); }
  void begin(const Pass& pass) override;
  void accumulate(const Pass&, ops::Samples samples) override;
  void exchange(const Pass& pass) override;
  void forward(const Pass&, ops::Samples samples) override {
    norm_->apply(t_.x, t_.r, t_.y, samples.count(), relu_, mask_.as<std::uint8_t>());
  }

  void accumulate_backward(const Pass&, ops::Samples samples) override;
  void start_exchange_backward(const Pass& pass) override;
  void finish_exchange_backward(const Pass& pass) override;
  void backward(const Pass&, ops::Samples samples) override;
  void backward_parameters(const Pass&) override;

  PopulationStatistics& population() override { return population_; }
  /// Looks at the last forward only; waits for the device.
  bool local_finite() const override;
  /// The group's statistics; waits for the device.
  BatchStatistics statistics() const override;

 private:
  const ops::Backend& backend_;
  LayerTensors t_;
  std::string name_;
  int members_;  // number of members of the group
  GroupSums& sums_;
  bool whole_world_, alone_, exchanges_;  // whether backward sends its message
  LayerParameters parameters_;
  RunningStatistics running_;
  PopulationStatistics population_;
  ops::Memory population_mean_, population_var_;  // copies on the device, f32 [C]
  ops::FusedRelu relu_;
  ops::Memory mask_;
  std::unique_ptr<ops::Normalization> norm_;
  const double* gradient_sums_ = nullptr;  // of the group or, if it sends no message, of this worker
  std::int64_t count_ = 0;                 // values per channel of the group in the last training forward
};

}  // namespace syncbn
