#pragma once

#include <string>

#include "nn/model_builder.hpp"

namespace syncbn {

// The ready models. Parameters have torchvision's names wherever torchvision has the model.
Model make_mlp(const ModelOptions& options);
Model make_lenet(const ModelOptions& options);
/// depth: 11 or 16
Model make_vgg(const ModelOptions& options, int depth);
/// depth: 20, 32, 44, 56 or 110
Model make_cifar_resnet(const ModelOptions& options, int depth);
/// depth: 18, 34 or 50
Model make_resnet(const ModelOptions& options, int depth);
/// From options.layers.
Model make_from_layers(const ModelOptions& options);

/// options.activation as a layer type. Throws Error(usage).
LayerType activation_of(const ModelOptions& options);

/// The builder of `options`, with its override of the initialization.
ModelBuilder make_builder(const ModelOptions& options);

constexpr double kLeakySlope = 0.01;                         ///< PyTorch's default
constexpr WeightInit kClassifierInit{Init::gaussian, 0.01};  ///< torchvision's, of its VGG

/// Where `options` put the normalizations of a ready model, and what follows from it.
class NormRule {
 public:
  explicit NormRule(const ModelOptions& options)
      : present_(options.norm == "batch"), after_(options.norm_after_activation), affine_(options.norm_affine) {}

  bool present() const { return present_; }
  bool after() const { return after_; }
  /// A bias would have no effect on a layer whose outputs are normalized at once.
  bool bias_before_activation() const { return !present_ || after_; }
  bool bias_before_norm() const { return !present_; }

  /// norm -> activation, or activation -> norm, or activation alone. `weight`: gamma at the start.
  int norm_and_activation(ModelBuilder& b, int x, const std::string& norm_name, const std::string& activation_name,
                          LayerType activation, double weight = 1) const {
    if (present_ && !after_) x = b.batch_norm(norm_name, x, affine_, weight);
    x = b.activation(activation_name, x, activation, kLeakySlope);
    if (present_ && after_) x = b.batch_norm(norm_name, x, affine_, weight);
    return x;
  }
  /// The normalization (if any) of a layer that no activation follows.
  int norm_only(ModelBuilder& b, int x, const std::string& name) const {
    return present_ ? b.batch_norm(name, x, affine_) : x;
  }
  /// norm -> add shortcut -> ReLU, or add shortcut -> ReLU -> norm, or without norm.
  int norm_add_relu(ModelBuilder& b, int x, int shortcut, const std::string& block, const std::string& index,
                    double weight) const;

 private:
  bool present_, after_, affine_;
};

}  // namespace syncbn
