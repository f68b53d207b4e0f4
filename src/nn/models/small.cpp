#include <string>

#include "nn/models/models.hpp"

namespace syncbn {
namespace {

/// Whether the activation saturates. Sigmoid-like activations need the variance preserved in both directions (Glorot &
/// Bengio 2010); rectifiers halve it.
bool saturates(LayerType activation) {
  return activation == LayerType::sigmoid || activation == LayerType::tanh;
}

class SmallNetBuilder {
 public:
  explicit SmallNetBuilder(const ModelOptions& options)
      : options_(options),
        activation_(activation_of(options)),
        init_{saturates(activation_) ? Init::glorot : Init::he},
        norm_(options),
        b_(make_builder(options)),
        x_(b_.input()) {}

  const Shape& shape() const { return b_.shape(x_); }

  /// Appends convolution -> norm -> activation -> 2x2 max pooling.
  void conv_stage(const std::string& index, std::int64_t channels, Window window) {
    x_ = b_.conv2d("conv" + index, x_, channels, window, norm_.bias(), init_);
    x_ = norm_.norm_and_activation(b_, x_, "bn" + index, "act" + index, activation_);
    x_ = b_.pool("pool" + index, x_, LayerType::max_pool, {2, 2, 0});
  }
  void flatten() { x_ = b_.flatten("flatten", x_); }
  /// Appends linear -> norm -> activation.
  void hidden(const std::string& name, const std::string& norm_index, std::int64_t out) {
    x_ = b_.linear(name, x_, out, norm_.bias(), init_);
    x_ = norm_.norm_and_activation(b_, x_, "bn" + norm_index, "act" + norm_index, activation_);
  }
  Model classifier(const std::string& name) {
    if (options_.dropout > 0) x_ = b_.dropout("dropout", x_, options_.dropout);
    b_.linear(name, x_, options_.classes, true, saturates(activation_) ? init_ : kClassifierInit);
    return b_.finish(options_.classes);
  }

 private:
  const ModelOptions& options_;
  LayerType activation_;
  WeightInit init_;
  NormRule norm_;
  ModelBuilder b_;
  int x_;
};

}  // namespace

Model make_mlp(const ModelOptions& options) {
  SmallNetBuilder net(options);
  net.flatten();
  std::size_t i = 0;
  for (const std::int64_t width : options.hidden) {
    const std::string index = std::to_string(++i);
    net.hidden("fc" + index, index, width);
  }
  return net.classifier("fc" + std::to_string(i + 1));
}

// LeNet-5 (LeCun et al. 1998) as commonly built today: max pooling, full connections, any activation.
Model make_lenet(const ModelOptions& options) {
  const bool pad = options.input.h() < 32 || options.input.w() < 32;  // LeCun padded 28x28 digits to 32x32
  SmallNetBuilder net(options);
  net.conv_stage("1", 6, {5, 1, pad ? 2 : 0});
  net.conv_stage("2", 16, {5, 1, 0});
  net.flatten();
  net.hidden("fc1", "3", 120);
  net.hidden("fc2", "4", 84);
  return net.classifier("fc3");
}

}  // namespace syncbn
