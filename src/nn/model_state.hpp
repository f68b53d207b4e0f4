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

/// Where a layer's running statistics lie in the flat buffers. In the values they are the running statistics; in a
/// worker's gradient the same places collect what a step contributes to them (see RunningStatistics), so that
/// statistics of different groups are averaged by the very messages that carry the gradients.
struct NormState {
  int layer = 0;
  std::string name;
  FlatRange mean, var;
  const char* var_name = "running_var";  ///< whitening: running_cov
  std::vector<std::int64_t> var_dims;    ///< [C]; whitening: [groups, width, width]
  FlatRange kept;  ///< 1 element, gradient only: the factor that the old running statistics keep in this step
  std::int64_t batches_tracked = 0;
};

/// What the normalization layers of a network share.
struct NormSettings {
  BatchNormOptions options;
  /// > 0: options.momentum is meant for batches of so many samples, of all workers; a batch of n gets 1 - (1 -
  /// momentum)^(n / this), so that a sample decays alike in batches of any size.
  std::int64_t momentum_reference_batch = 0;
  std::optional<RenormOptions> renorm;  ///< of batch renormalization; needs running statistics
  bool whole_world = true;  ///< the group is all workers: the statistics messages already carry d(gamma), d(beta)
};

/// The weights and running statistics of a network, shared by the workers of a rank, or of a machine whose ranks have
/// the backend's memory in common; then what changes them is a matter of all these workers. Flat f32 buffers:
///
///   | exchanged: layer by layer, weights, biases, and (unless the group is all workers) gamma, beta, statistics |
///   | known: gamma, beta and statistics that every worker has from the statistics messages | gains |
///
/// The gradients of gains of normalized weights follow from those of the weights.
class ModelState {
 public:
  ModelState(Model model, const NormSettings& norm, const ops::Backend& backend);

  const Model& model() const { return model_; }
  const NormSettings& norm() const { return norm_; }
  std::int64_t flat_size() const { return flat_size_; }
  /// Elements that the gradient exchange has to sum; [0, exchanged_size()).
  std::int64_t exchanged_size() const { return exchanged_size_; }
  /// The processor's. On a device they are a copy: see fetch() and pack().
  std::span<float> values() { return values_.host(); }
  std::span<float> values(FlatRange r) { return values().subspan(r.offset, r.count); }
  /// The same for kernels.
  std::span<float> kernels() { return values_.kernels(); }
  std::span<float> kernels(FlatRange r) { return kernels().subspan(r.offset, r.count); }
  /// Brings values() up to date. Waits.
  void fetch() const { values_.fetch(); }
  /// Lets kernels see what values() holds, and packs it; to be called after each change of values(). Waits.
  void send();

  /// By index into model().parameters.
  FlatRange parameter(int i) const { return parameters_[i]; }
  /// Index of a layer's weight / bias (gamma / beta), -1 if it has none.
  int weight_of(int layer) const { return weight_of_[layer]; }
  int bias_of(int layer) const { return bias_of_[layer]; }
  /// What a convolution or linear layer multiplies with: its weight, normalized if it has a gain; as of the last
  /// pack(). For kernels.
  std::span<const float> weights(int layer);
  /// Those of a linear layer in the type of the activations.
  const void* linear_weights(int layer);
  /// The exchanged part of a layer's gradient; count 0 if there is none.
  FlatRange exchanged(int layer) const { return exchanged_[layer]; }
  std::vector<NormState>& norm_states() { return norm_states_; }
  /// nullptr for layers without running statistics.
  NormState* norm_state(int layer);

  /// Random weights from (seed, parameter name); gamma, beta, biases and statistics to their start values. Then send().
  void initialize(std::uint64_t seed);
  /// Brings the normalized, packed and cast forms of part `part` of `parts` of the weights up to date; to be called
  /// after each change of kernels(), while nobody computes.
  void pack(int part, int parts);
  const ops::Conv2dWeights& packed(int layer) const { return *packed_[layer]; }
  /// Turns part `part` of `parts` of the sum of the workers' gradients into the gradient of the parameters: those of
  /// convolutions come in their kernels' order, those of normalized weights with respect to weights(). `summed`:
  /// [exchanged_size()]; `own`, [flat_size()], has the rest, which every worker knows. All in the kernels' memory.
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
  std::int64_t known_size_ = 0;  // behind it: gains, whose gradients finish_gradient() makes
  std::vector<FlatRange> parameters_, exchanged_;
  std::vector<int> weight_of_, gain_of_, bias_of_;
  std::vector<NormState> norm_states_;
  std::vector<std::unique_ptr<ops::Conv2dWeights>> packed_;
  std::vector<ops::Memory> cast_;  // weights of linear layers, where activations are not f32
  FlatBuffer normalized_;          // where weights have gains: the normalized weights, at the places of v
  FlatBuffer values_;
};

/// Geometry of a conv2d layer of a model.
ops::Conv2dGeometry conv2d_geometry(const Model& model, int layer);

}  // namespace syncbn
