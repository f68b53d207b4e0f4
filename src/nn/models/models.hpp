#pragma once

#include <string>
#include <vector>

#include "nn/models/builder.hpp"

namespace syncbn {

// The predefined models. Parameters have torchvision's names wherever torchvision has the model.
Model make_mlp(const ModelOptions& options);
Model make_lenet(const ModelOptions& options);
/// depth: 11 or 16
Model make_vgg(const ModelOptions& options, int depth);
/// depth: 8, 20, 32, 44, 56 or 110
Model make_cifar_resnet(const ModelOptions& options, int depth);
/// depth: 18, 34 or 50
Model make_resnet(const ModelOptions& options, int depth);
/// Makes a model from options.layers.
Model make_from_layers(const ModelOptions& options);

/// Valid values of ModelOptions::init, ModelOptions::activation and LayerConfig::type.
std::vector<std::string> init_names();
std::vector<std::string> activation_names();
std::vector<std::string> layer_type_names();

std::vector<std::string> names_of(const std::vector<LayerType>& types);

/// Returns options.activation as a layer type. Throws Error(usage).
LayerType activation_of(const ModelOptions& options);

/// Makes a builder for `options`, with their override of the initialization.
ModelBuilder make_builder(const ModelOptions& options);

constexpr double kLeakySlope = 0.01;                         ///< PyTorch's default
constexpr WeightInit kClassifierInit{Init::gaussian, 0.01};  ///< as in torchvision's VGG

/// Where `options` place the normalizations of a predefined model, and what depends on it.
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
  /// Whether a convolution or linear layer that is followed by an activation (possibly with a normalization in between)
  /// has a bias: directly before a normalization it would be redundant.
  bool bias() const { return !before_activation(); }

  /// Appends a normalization whose gamma starts at `gamma`; returns `x` itself without normalization.
  int norm(ModelBuilder& b, int x, const std::string& name, double gamma = 1) const;
  /// Appends norm -> activation, or activation -> norm, or activation alone.
  int norm_and_activation(ModelBuilder& b, int x, const std::string& norm_name, const std::string& activation_name,
                          LayerType activation) const;

 private:
  std::string type_;
  std::int64_t groups_, group_channels_;
  bool after_, affine_;
};

}  // namespace syncbn
