#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "syncbn/core/tensor.hpp"

namespace syncbn {

/// One entry of `model.layers` in a configuration.
struct LayerConfig {
  std::string type;      ///< conv2d, linear, norm (or batch_norm), relu, leaky_relu, sigmoid, tanh, max_pool, avg_pool,
                         ///< global_avg_pool, dropout, flatten, add
  std::string name;      ///< optional; default <type><index>
  std::string from;      ///< add: name of the second input layer; others: input layer, default the previous
  std::int64_t out = 0;  ///< conv2d: channels; linear: features
  std::int64_t kernel = 0;
  std::int64_t stride = 0;  ///< 0: 1 for conv2d, the kernel for pools
  std::int64_t padding = 0;
  bool bias = true;
  double p = 0.5;       ///< dropout
  double slope = 0.01;  ///< leaky_relu
  /// Where the entry was written ("FILE:LINE"), for messages; not part of the layer.
  struct Place {
    std::string text;
    bool operator==(const Place&) const { return true; }
  } place = {};
  bool operator==(const LayerConfig&) const = default;
};

enum class LayerType {
  input,
  conv2d,
  linear,
  batch_norm,  ///< also batch renormalization
  group_norm,  ///< group, layer and instance normalization
  whitening,
  relu,
  leaky_relu,
  sigmoid,
  tanh,
  max_pool,
  avg_pool,
  global_avg_pool,
  dropout,
  flatten,
  add
};
const char* name_of(LayerType type);
bool is_norm(LayerType type);
/// Whether the layer normalizes by statistics of the batch, which groups of workers share by exchanging messages.
bool shares_statistics(LayerType type);

/// Distribution of initial weights, normal with mean 0 and variance: he 2 / fan_out for convolutions (as torchvision)
/// and 2 / fan_in for linear layers; glorot 2 / (fan_in + fan_out); gaussian init_std^2.
enum class Init { he, glorot, gaussian };

/// One layer of a network: what it computes and from which inputs.
struct LayerSpec {
  LayerType type = LayerType::input;
  std::string name;         ///< torchvision's module path: "layer1.0.bn1"
  int input = -1;           ///< index of the layer whose output it reads
  int residual = -1;        ///< add; batch_norm, group_norm with a fused addition: index of the second input
  bool fused_relu = false;  ///< batch_norm, group_norm: ReLU in the same sweep
  std::int64_t groups = 0;  ///< group_norm, whitening: groups of channels
  std::int64_t kernel_h = 1, kernel_w = 1, stride = 1, padding = 0;
  bool bias = false;
  double p = 0, slope = 0;
  Shape output;  ///< for one sample: [1, C, H, W], or [1, F] from flatten, linear and global_avg_pool on
};

/// weight_gain is the g of a normalized weight, whose `weight` is then v; see weight_norm.hpp.
enum class ParameterKind { weight, weight_gain, bias, norm_weight, norm_bias };

struct ParameterSpec {
  std::string name;  ///< "layer1.0.conv1.weight", as torchvision; with a gain "...weight_v", as PyTorch's weight_norm
  ParameterKind kind = ParameterKind::weight;
  std::vector<std::int64_t> dims;  ///< canonical: [O, I, kh, kw], [O, I], [C]
  int layer = 0;
  Init init = Init::he;
  double init_std = 0;    ///< gaussian
  double init_scale = 1;  ///< factor of the initial values; with weight_gain that of the gain instead
  double init_value = 0;  ///< initial value of biases, gamma and beta
  std::int64_t fan_in = 0, fan_out = 0;
  std::int64_t count() const;
};

/// A network as data: layers in topological order (layer 0 is the input), parameters in the same order. `explain`
/// prints it and Network executes it.
struct Model {
  std::string name;
  std::vector<LayerSpec> layers;
  std::vector<ParameterSpec> parameters;
  std::int64_t parameter_count() const;
};

/// The options of a model. Options that the chosen model would ignore are errors.
struct ModelOptions {
  std::string name;                 ///< see model_names(), or "layers"
  std::vector<LayerConfig> layers;  ///< for "layers"
  Shape input;                      ///< [1, C, H, W]
  std::int64_t classes = 10;
  /// One of norm_types(). With weight and none, predefined models have biases instead, and entries of `layers` of type
  /// norm are left out. With weight, all weights of convolutions and linear layers are normalized.
  std::string norm = "batch";
  std::int64_t norm_groups = 32;          ///< group: see group_count()
  std::int64_t norm_group_channels = 16;  ///< whitening: maximum number of channels that are whitened together
  bool norm_affine = true;
  /// Predefined models only. Moves every normalization behind the nonlinearity that follows it: convolution, ReLU,
  /// norm; at the end of a residual block: convolution, addition, ReLU, norm. A layer whose output is no longer
  /// normalized directly gets a bias.
  bool norm_after_activation = false;
  /// default, or one Init for all weights. Default: he; the classifiers of ReLU networks gaussian with 0.01 (as
  /// torchvision's VGG); mlp, lenet and layers with sigmoid or tanh glorot throughout.
  std::string init = "default";
  double init_std = 0.01;                         ///< gaussian
  std::vector<std::int64_t> hidden = {256, 256};  ///< mlp: widths of the hidden layers
  std::string activation = "relu";                ///< mlp, lenet: relu, leaky_relu, sigmoid, tanh
  /// Predefined models: dropout before the classifier. VGG's classifier for 224x224 uses 0.5, as torchvision, if this
  /// is 0.
  double dropout = 0;
  bool zero_init_residual = false;  ///< resnets: the last gamma of each block starts at 0 (Goyal et al. 2017)
};

/// Valid norms: batch, renorm, whitening, group, layer, instance, weight, none.
const std::vector<std::string>& norm_types();
/// Whether this normalization consists of layers, unlike weight and none.
bool has_norm_layers(const std::string& norm_type);
/// Whether layers of this normalization exchange messages in training (norm.group then says among whom).
bool shares_statistics(const std::string& norm_type);

/// Number of channel groups of a group normalization that should have `wanted` of them (Wu & He 2018: 32): the largest
/// divisor of the channels, up to `wanted`, that leaves each group at least 2 channels and 16 values per sample;
/// otherwise 1.
std::int64_t group_count(std::int64_t wanted, const Shape& sample);

/// Predefined models: mlp, lenet, vgg11, vgg16, resnet8, resnet20, resnet32, resnet44, resnet56, resnet110, resnet18,
/// resnet34, resnet50.
const std::vector<std::string>& model_names();

/// Builds a model and checks its shapes. Throws Error(usage) naming the layer, the shapes and what to do.
Model make_model(const ModelOptions& options);

}  // namespace syncbn
