#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "comm/group_sums.hpp"
#include "nn/model_state.hpp"
#include "ops/backend.hpp"
#include "syncbn/comm/communicator.hpp"

namespace syncbn {

/// What layers that share statistics normalize with in evaluation.
enum class Statistics {
  running,  ///< moving averages of training; the batch's where none are kept
  precise,  ///< those of many training images, see Network::finish_population()
  batch     ///< the batch's own, shared by the same groups as in training; a batch of one value becomes beta
};

/// What a layer needs to know of the batch it works on.
struct Pass {
  Mode mode = Mode::train;
  Statistics statistics = Statistics::running;  ///< evaluation only
  bool population = false;         ///< evaluation by batch statistics: they become a part of the precise ones
  std::int64_t n = 0;              ///< samples of this worker; may be 0
  std::int64_t step = 0;           ///< micro-batch number: keys dropout, names messages
  std::int64_t batch_samples = 0;  ///< of all workers
  double progress = 1;             ///< share of the training that is done
  std::uint64_t seed = 0;
  std::span<const std::int64_t> sample_ids;  ///< [n]
  bool accumulate = false;  ///< gradients of weights add to those of earlier passes of the update; set by Network
};

/// The tensors a layer reads and writes. Gradients are views into memory that is reused once nobody needs it.
struct LayerTensors {
  Tensor x, dx;  ///< dx absent: the input needs no gradient
  Tensor r, dr;  ///< second input (residual), if any
  Tensor y, dy;
  bool accumulate_dx = false, accumulate_dr = false;  ///< add to the gradient: another consumer has written it already
};

/// One layer of one worker's copy of a network. Plain SPMD code on the worker's own samples; only NormLayer
/// communicates. The executor (Network) calls it for ranges of samples, so that data is still in cache when the next
/// layer reads it.
class Layer {
 public:
  virtual ~Layer() = default;
  virtual void forward(const Pass& pass, ops::Samples samples) = 0;
  /// Writes the gradients of the inputs.
  virtual void backward(const Pass& pass, ops::Samples samples) = 0;
  /// Writes the gradients of the parameters, whole batch at once; called after backward() of all samples, at a time
  /// when statistics of another layer are under way. Convolutions and linear layers assign in the first pass of an
  /// update; what others add to has been zeroed.
  virtual void backward_parameters(const Pass&) {}
  /// Whether forward() and backward() want the whole batch in one call.
  virtual bool whole_batch() const { return false; }
  /// Whether training passes over as many samples all queue the same for a device, which has what differs in its
  /// memory.
  virtual bool repeats() const { return true; }
};

/// What layers are made from.
struct LayerContext {
  ModelState& state;
  const ops::Backend& backend;
  std::span<float> gradient;  ///< this worker's flat gradient, in the kernels' memory
  Communicator group;         ///< for the normalization layers
  GroupSums* sums = nullptr;  ///< the same on a device; null on the processor
  int groups = 1;             ///< number of groups in the world
  std::int64_t max_samples = 0;

  const LayerSpec& spec(int layer) const { return state.model().layers[layer]; }
};

/// Any layer but those whose type shares_statistics(), see make_norm_layer().
std::unique_ptr<Layer> make_layer(const LayerContext& context, int index, const LayerTensors& tensors);

}  // namespace syncbn
