#pragma once

#include <memory>
#include <vector>

#include "nn/layer.hpp"
#include "nn/normalization/population_statistics.hpp"

namespace syncbn {

/// Statistics of a group's samples per channel, [C]; with a count of 0 they are undefined.
struct BatchStatistics {
  std::int64_t count = 0;         ///< values per channel, over samples and positions
  std::vector<double> mean, var;  ///< var: biased
};

/// A normalization by statistics of the batch, which a group of workers may share: in training, a worker must have seen
/// all its samples, and exchanged a message, before it can normalize the first. Forward: begin(), accumulate() sample
/// by sample, exchange(), forward() sample by sample; backward likewise. Layers that normalize single samples are plain
/// layers.
class NormLayer : public Layer {
 public:
  /// Starts a new update: contributions to the running statistics are collected anew. The gradient has been zeroed.
  virtual void begin_update() = 0;
  /// Whether this pass normalizes with the batch's own statistics, that is, sends messages.
  virtual bool uses_batch(const Pass& pass) const = 0;
  virtual void begin(const Pass& pass) = 0;
  virtual void accumulate(const Pass& pass, ops::Samples samples) = 0;
  /// Exchanges the forward message. Collective over the group.
  virtual void exchange(const Pass& pass) = 0;

  /// Called before the first accumulate_backward() of a pass.
  virtual void begin_backward(const Pass&) {}
  virtual void accumulate_backward(const Pass& pass, ops::Samples samples) = 0;
  /// The two halves of the backward collective; the caller may compute in between.
  virtual void start_exchange_backward(const Pass& pass) = 0;
  virtual void finish_exchange_backward(const Pass& pass) = 0;
  // backward_parameters() adds d(gamma), d(beta) to the gradient, after finish_exchange_backward().

  /// Collects the statistics of passes with Pass::population, which Statistics::precise normalizes with.
  virtual PopulationStatistics& population() = 0;

  /// Whether this worker's own partial sums since begin_update() were all finite numbers.
  virtual bool local_finite() const = 0;
  /// The group's statistics of the last training forward.
  virtual BatchStatistics statistics() const = 0;
};

/// Number of values in the longest message of a batch norm layer of this model.
std::int64_t longest_message(const Model& model);

/// Makes a layer whose type shares_statistics().
std::unique_ptr<NormLayer> make_norm_layer(const LayerContext& context, int index, const LayerTensors& tensors);

}  // namespace syncbn
