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

/// The statistics that layers which share statistics use in evaluation.
enum class Statistics {
  running,  ///< moving averages of training; the batch's if none are kept
  precise,  ///< statistics of many training images, see Network::finish_population()
  batch     ///< the batch's own, shared by the same groups as in training; a batch of one value becomes beta
};

/// Properties of the batch that a layer works on.
struct Pass {
  Mode mode = Mode::train;
  Statistics statistics = Statistics::running;  ///< evaluation only
  bool population = false;                      ///< evaluation by batch statistics that are added to the precise ones
  std::int64_t n = 0;                           ///< samples of this worker; may be 0
  std::int64_t step = 0;                        ///< micro-batch number: keys dropout, names messages
  std::int64_t batch_samples = 0;               ///< samples of all workers
  double progress = 1;                          ///< fraction of the training that is done
  std::uint64_t seed = 0;
  std::span<const std::int64_t> sample_ids;  ///< [n]
  bool accumulate = false;  ///< weight gradients add to those of earlier passes of the update; set by Network
};

/// The tensors a layer reads and writes. Gradients are views into memory that is reused once it is no longer needed.
struct LayerTensors {
  Tensor x, dx;  ///< dx absent: the input needs no gradient
  Tensor r, dr;  ///< second input (residual), if any
  Tensor y, dy;
  bool accumulate_dx = false, accumulate_dr = false;  ///< add to what another consumer has already written
};

/// One layer of one worker's copy of a network. Layers are plain SPMD code on the worker's own samples; only NormLayer
/// communicates. Network calls them for ranges of samples, so that data is still in cache when the next layer reads it.
class Layer {
 public:
  virtual ~Layer() = default;
  virtual void forward(const Pass& pass, ops::Samples samples) = 0;
  /// Writes the gradients of the inputs.
  virtual void backward(const Pass& pass, ops::Samples samples) = 0;
  /// Writes the gradients of the parameters for the whole batch; called after backward() of all samples, while the
  /// message of another layer is under way. Convolutions and linear layers assign in the first pass of an update; what
  /// other layers add to has been zeroed.
  virtual void backward_parameters(const Pass&) {}
  /// Whether forward() and backward() must get the whole batch in one call.
  virtual bool whole_batch() const { return false; }
  /// Whether all training passes of the same number of samples queue the same calls for a device; data that differs
  /// must be in its memory.
  virtual bool repeats() const { return true; }
};

/// Arguments from which layers are made.
struct LayerContext {
  ModelState& state;
  const ops::Backend& backend;
  std::span<float> gradient;  ///< this worker's flat gradient, in the kernels' memory
  Communicator group;         ///< for the normalization layers
  GroupSums* sums = nullptr;  ///< of the group, on a device; null on the CPU
  int groups = 1;             ///< number of groups in the world
  std::int64_t max_samples = 0;

  const LayerSpec& spec(int layer) const { return state.model().layers[layer]; }
};

/// Makes any layer except those whose type shares_statistics(), see make_norm_layer().
std::unique_ptr<Layer> make_layer(const LayerContext& context, int index, const LayerTensors& tensors);

}  // namespace syncbn
