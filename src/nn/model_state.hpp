#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nn/flat_buffer.hpp"
#include "nn/normalization/batch_renorm.hpp"
#include "ops/backend.hpp"
#include "syncbn/nn/batch_norm.hpp"
#include "syncbn/nn/model.hpp"

namespace syncbn {

/// Elements [offset, offset + count) of the flat buffers.
struct FlatRange {
  std::int64_t offset = 0;
  std::int64_t count = 0;
};

/// The places of a layer's running statistics in the flat buffers. The values hold the running statistics; in a
/// worker's gradient the same places collect a step's contributions to them (see RunningStatistics), so that the
/// messages that sum the gradients also average the statistics of different groups.
struct NormState {
  int layer = 0;
  std::string name;
  FlatRange mean, var;
  const char* var_name = "running_var";  ///< whitening: running_cov
  std::vector<std::int64_t> var_dims;    ///< [C]; whitening: [groups, width, width]
  FlatRange kept;                        ///< 1 element, gradient only: this step's factor of the old running statistics
  std::int64_t batches_tracked = 0;
};

/// Settings shared by the normalization layers of a network.
struct NormSettings {
  BatchNormOptions options;
  /// > 0: options.momentum refers to batches of this many samples, of all workers together; a batch of n gets 1 - (1 -
  /// momentum)^(n / this), so that a sample decays alike in batches of any size.
  std::int64_t momentum_reference_batch = 0;
  std::optional<RenormOptions> renorm;  ///< set for batch renormalization; needs running statistics
  bool whole_world = true;              ///< one group of all workers: the statistics messages carry d(gamma), d(beta)
};

/// The weights and running statistics of a network, shared by the workers of a rank, or of a machine whose ranks share
/// the backend's memory; changing them then concerns all these workers. Flat f32 buffers:
///
///   | exchanged: layer by layer, weights, biases, and (unless the group is all workers) gamma, beta, statistics |
///   | known: gamma, beta and statistics that every worker has from the statistics messages | gains |
///
/// The gradients of gains are derived from those of the normalized weights.
class ModelState {
 public:
  ModelState(Model model, const NormSettings& norm, const ops::Backend& backend);

  const Model& model() const { return model_; }
  const NormSettings& norm() const { return norm_; }
  std::int64_t flat_size() const { return flat_size_; }
  /// Number of elements that the gradient exchange must sum: [0, exchanged_size()).
  std::int64_t exchanged_size() const { return exchanged_size_; }
  /// The values for code on the CPU. On a device they are a copy: see fetch() and pack().
  std::span<float> values() { return values_.host(); }
  std::span<float> values(FlatRange r) { return values().subspan(r.offset, r.count); }
  /// The same for kernels.
  std::span<float> kernels() { return values_.kernels(); }
  std::span<float> kernels(FlatRange r) { return kernels().subspan(r.offset, r.count); }
  /// Updates values() from the kernels' memory. Waits.
  void fetch() const { values_.fetch(); }
  /// Updates the kernels' memory from values(), and packs; to be called after each change of values(). Waits.
  void send();

  /// The place of parameter `i` of model().parameters.
  FlatRange parameter(int i) const { return parameters_[i]; }
  /// Index of a layer's weight (gamma) or bias (beta), -1 if it has none.
  int weight_of(int layer) const { return weight_of_[layer]; }
  int bias_of(int layer) const { return bias_of_[layer]; }
  /// The weight that a convolution or linear layer multiplies with: normalized if it has a gain; as of the last pack().
  /// For kernels.
  std::span<const float> weights(int layer);
  /// A linear layer's weights in the type of the activations.
  const void* linear_weights(int layer);
  /// The exchanged part of a layer's gradient; count 0 if there is none.
  FlatRange exchanged(int layer) const { return exchanged_[layer]; }
  std::vector<NormState>& norm_states() { return norm_states_; }
  /// nullptr for layers without running statistics.
  NormState* norm_state(int layer);

  /// Sets random weights from (seed, parameter name), and gamma, beta, biases and statistics to their initial values.
  /// Then send().
  void initialize(std::uint64_t seed);
  /// Updates the normalized, packed and cast forms of part `part` of `parts` of the weights; to be called after each
  /// change of kernels(), while nobody computes.
  void pack(int part, int parts);
  const ops::Conv2dWeights& packed(int layer) const { return *packed_[layer]; }
  /// Turns part `part` of `parts` of the workers' summed gradients into the gradient of the parameters: gradients of
  /// convolutions come in their kernels' order, those of normalized weights with respect to weights(). `summed`:
  /// [exchanged_size()]; `own`, [flat_size()], has the rest, which is the same on every worker. All in the kernels'
  /// memory.
  void finish_gradient(std::span<const float> summed, std::span<const float> own, std::span<float> gradient, int part,
                       int parts);
  /// running = kept * running + contribution, from a summed gradient.
  void update_statistics(std::span<const float> gradient);
  void count_batches(std::int64_t batches);

 private:
  FlatRange place(std::int64_t count);
  void place_parameter(int parameter);
  std::span<float> normalized(int layer, std::span<float> all);
  void finish_gain(int layer, std::span<float> gradient);
  void cast(int layer);
  void copy(const float* from, float* to, std::int64_t count) const;
  void place_norm(int layer);

  const ops::Backend& backend_;
  Model model_;
  NormSettings norm_;
  std::int64_t flat_size_ = 0;
  std::int64_t exchanged_size_ = 0;
  std::int64_t known_size_ = 0;  // end of the known part; gains follow, whose gradients finish_gradient() makes
  std::vector<FlatRange> parameters_, exchanged_;
  std::vector<int> weight_of_, gain_of_, bias_of_;
  std::vector<NormState> norm_states_;
  std::vector<std::unique_ptr<ops::Conv2dWeights>> packed_;
  std::vector<ops::Memory> cast_;  // weights of linear layers, where activations are not f32
  FlatBuffer normalized_;          // where weights have gains: the normalized weights, at the places of v
  FlatBuffer values_;
};

/// The geometry of a convolution of a model.
ops::Conv2dGeometry conv2d_geometry(const Model& model, int layer);

}  // namespace syncbn
