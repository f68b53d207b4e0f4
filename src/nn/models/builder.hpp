#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "syncbn/nn/model.hpp"

namespace syncbn {

/// Initial distribution of weights. he: normal with variance 2 / fan (fan_out for convolutions, as torchvision; fan_in
/// for linear layers); glorot: normal with variance 2 / (fan_in + fan_out); gaussian: normal with standard deviation
/// std. All are multiplied by scale.
struct WeightInit {
  Init init = Init::he;
  double std = 0;
  double scale = 1;
};

/// The square window of a convolution or pool.
struct Window {
  std::int64_t kernel = 0, stride = 1, padding = 0;
};

/// Appends layers to a Model one by one. Every method infers the output shape, checks the inputs, and returns the new
/// layer's index; all throw Error(usage) that names the layer, the shapes and what to do.
class ModelBuilder {
 public:
  /// `image`: [1, C, H, W]. `override`: replaces the init of every weight. `weight_norm`: normalizes every weight.
  ModelBuilder(const std::string& model, const Shape& image, std::optional<WeightInit> override,
               bool weight_norm = false);

  /// Sets the start of messages about a layer, by default "model <name>".
  void set_context(const std::string& layer, std::string context) { contexts_[layer] = std::move(context); }

  int input() const { return 0; }
  /// The output shape for one sample: [1, C, H, W] or [1, F].
  const Shape& shape(int layer) const;

  /// [1, C, H, W] -> [1, out, H', W']
  int conv2d(const std::string& name, int x, std::int64_t out, Window window, bool bias, WeightInit init);
  /// [1, F] -> [1, out]
  int linear(const std::string& name, int x, std::int64_t out, bool bias, WeightInit init);
  /// `weight`: initial gamma. Without `affine` there are no parameters.
  int batch_norm(const std::string& name, int x, bool affine, double weight = 1);
  /// `groups` must divide the channels, and a group must have more than one value per sample.
  int group_norm(const std::string& name, int x, std::int64_t groups, bool affine, double weight = 1);
  /// Whitens groups of channels, as many per group as divide the channels, up to `group_channels`.
  int whitening(const std::string& name, int x, std::int64_t group_channels, bool affine, double weight = 1);
  /// relu, leaky_relu (which alone reads `slope`), sigmoid or tanh.
  int activation(const std::string& name, int x, LayerType type, double slope);
  /// max_pool or avg_pool: [1, C, H, W] -> [1, C, H', W'], rounded down.
  int pool(const std::string& name, int x, LayerType type, Window window);
  /// [1, C, H, W] -> [1, C]
  int global_avg_pool(const std::string& name, int x);
  int dropout(const std::string& name, int x, double p);
  /// [1, C, H, W] -> [1, C*H*W]; [1, F] stays.
  int flatten(const std::string& name, int x);
  int add(const std::string& name, int x, int other);

  /// Throws Error(usage): "<context>: layer '<name>' (<type>): <what>".
  [[noreturn]] void fail(const std::string& name, LayerType type, const std::string& what) const;

  /// Checks that the last layer yields [1, classes] and that every layer is used, fuses ReLUs and additions into the
  /// normalizations before them, and returns the model.
  Model finish(std::int64_t classes);

 private:
  int append(LayerSpec layer, const Shape& output);
  void require_image(const LayerSpec& layer) const;
  Shape slide(const LayerSpec& layer, std::int64_t channels) const;
  void add_weight(int layer, std::vector<std::int64_t> dims, WeightInit init);
  int add_norm(LayerSpec layer, bool affine, double weight);
  void add_parameter(int layer, const std::string& suffix, ParameterKind kind, std::vector<std::int64_t> dims,
                     double value);
  void require_all_used() const;

  Model model_;
  std::optional<WeightInit> override_;
  bool weight_norm_;
  std::string context_;
  std::map<std::string, std::string> contexts_;  // by layer
  std::set<std::string> names_;
};

/// Merges norm + relu, norm + add and norm + add + relu into single batch_norm or group_norm layers, wherever no other
/// layer reads the intermediate values. The merged model computes the same.
void fuse_norms(Model& model);

}  // namespace syncbn
