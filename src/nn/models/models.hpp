#pragma once

#include <string>
#include <vector>

#include "nn/models/builder.hpp"

namespace syncbn {

// The ready models. Parameters have torchvision's names wherever torchvision has the model.
Model make_mlp(const ModelOptions& options);
Model make_lenet(const ModelOptions& options);
/// depth: 11 or 16
Model make_vgg(const ModelOptions& options, int depth);
/// depth: 8, 20, 32, 44, 56 or 110
Model make_cifar_resnet(const ModelOptions& options, int depth);
/// depth: 18, 34 or 50
Model make_resnet(const ModelOptions& options, int depth);
/// From options.layers.
Model make_from_layers(const ModelOptions& options);

/// What ModelOptions::init, ModelOptions::activation and LayerConfig::type may be.
std::vector<std::string> init_names();
std::vector<std::string> activation_names();
std::vector<std::string> layer_type_names();

std::vector<std::string> names_of(const std::vector<LayerType>& types);

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
      : type_(options.norm),
        groups_(options.norm_groups),
        group_channels_(options.norm_group_channels),
        after_(options.norm_after_activation),
        affine_(options.norm_affine) {}

  bool present() const { return has_norm_layers(type_); }
  bool before_activation() const { return present() && !after_; }
  bool after_activation() const { return present() && after_; }
  /// Whether a convolution or linear layer that an activation follows, perhaps after its normalization, has a bias: one
  /// that is normalized at once would be idle.
  bool bias() const { return !before_activation(); }

  /// A normalization whose gamma starts at `gamma`; `x` itself without normalization.
  int norm(ModelBuilder& b, int x, const std::string& name, double gamma = 1) const;
  /// norm -> activation, or activation -> norm, or activation alone.
  int norm_and_activation(ModelBuilder& b, int x, const std::string& norm_name, const std::string& activation_name,
                          LayerType activation) const;

 private:
  std::string type_;
  std::int64_t groups_, group_channels_;
  bool after_, affine_;
};

}  // namespace syncbn
