#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "nn/models/models.hpp"

// Residual networks. He et al. 2015 (arXiv 1512.03385): section 4.1 for images of 64 pixels and more, section 4.2 for
// CIFAR. Names, strides (in the 3x3 convolution of a bottleneck) and initialization as in torchvision.
//
// With normalization after the activation, every batch norm moves behind the following nonlinearity, the last one of a
// block behind addition and ReLU: conv1, relu, bn1, conv2, add, relu, bn2. The one on a projected shortcut has no
// nonlinearity to move behind and stays.

namespace syncbn {
namespace {

struct Block {
  std::string name;
  std::int64_t width, out, stride;
};

class ResNetBuilder {
 public:
  /// `blocks`: the total number of blocks.
  ResNetBuilder(const ModelOptions& options, int blocks)
      : options_(options), norm_(options), blocks_(blocks), b_(make_builder(options)), x_(b_.input()) {}

  void stem(std::int64_t channels, Window conv, bool pool) {
    x_ = b_.conv2d("conv1", x_, channels, conv, norm_.bias(), {});
    x_ = norm_.norm_and_activation(b_, x_, "bn1", "relu", LayerType::relu);
    if (pool) x_ = b_.pool("maxpool", x_, LayerType::max_pool, {3, 2, 1});
  }

  /// Appends 3x3 -> 3x3, plus the shortcut.
  void basic_block(const Block& block) {
    const int shortcut = make_shortcut(block);
    x_ = conv_norm_relu(block, "1", block.width, {3, block.stride, 1}, branch_init(2));
    x_ = b_.conv2d(block.name + ".conv2", x_, block.out, {3, 1, 1}, norm_.bias(), last_init());
    add(block, shortcut, "2");
  }

  /// Appends 1x1 -> 3x3 -> 1x1, plus the shortcut.
  void bottleneck(const Block& block) {
    const int shortcut = make_shortcut(block);
    x_ = conv_norm_relu(block, "1", block.width, {1, 1, 0}, branch_init(3));
    x_ = conv_norm_relu(block, "2", block.width, {3, block.stride, 1}, branch_init(3));
    x_ = b_.conv2d(block.name + ".conv3", x_, block.out, {1, 1, 0}, norm_.bias(), last_init());
    add(block, shortcut, "3");
  }

  Model classifier() {
    x_ = b_.global_avg_pool("avgpool", x_);
    if (options_.dropout > 0) x_ = b_.dropout("dropout", x_, options_.dropout);
    b_.linear("fc", x_, options_.classes, true, kClassifierInit);
    return b_.finish(options_.classes);
  }

 private:
  // Without normalization, only the initialization keeps the activations of a residual network from growing with every
  // block: Fixup (Zhang, Dauphin & Ma 2019, arXiv 1901.09321), rules 1 and 2, without its learned scalars. A branch of
  // m convolutions in one of L blocks starts at L^(-1 / (2m - 2)) times the usual weights, and its last convolution at
  // 0.
  WeightInit branch_init(int convolutions) const {
    if (norm_.present()) return {};
    return {Init::he, 0, std::pow(blocks_, -1.0 / (2 * convolutions - 2))};
  }
  WeightInit last_init() const { return {Init::he, 0, norm_.present() ? 1.0 : 0.0}; }

  int conv_norm_relu(const Block& block, const std::string& index, std::int64_t out, Window window, WeightInit init) {
    const int y = b_.conv2d(block.name + ".conv" + index, x_, out, window, norm_.bias(), init);
    return norm_.norm_and_activation(b_, y, block.name + ".bn" + index, block.name + ".relu" + index, LayerType::relu);
  }

  /// Returns the input itself, or its projection where the shapes differ ("option B").
  int make_shortcut(const Block& block) {
    if (block.stride == 1 && b_.shape(x_).c() == block.out) return x_;
    const int y = b_.conv2d(block.name + ".downsample.0", x_, block.out, {1, block.stride, 0}, !norm_.present(), {});
    return norm_.norm(b_, y, block.name + ".downsample.1");
  }

  /// Appends norm -> add shortcut -> ReLU, or add shortcut -> ReLU -> norm, or the same without norm.
  void add(const Block& block, int shortcut, const std::string& index) {
    const std::string norm = block.name + ".bn" + index;
    const double gamma = options_.zero_init_residual ? 0 : 1;
    if (norm_.before_activation()) x_ = norm_.norm(b_, x_, norm, gamma);
    x_ = b_.add(block.name + ".add", x_, shortcut);
    x_ = b_.activation(block.name + ".relu" + index, x_, LayerType::relu, 0);
    if (norm_.after_activation()) x_ = norm_.norm(b_, x_, norm, gamma);
  }

  const ModelOptions& options_;
  NormRule norm_;
  int blocks_;
  ModelBuilder b_;
  int x_;
};

std::string block_name(int layer, int block) {
  return "layer" + std::to_string(layer + 1) + "." + std::to_string(block);
}

}  // namespace

Model make_cifar_resnet(const ModelOptions& options, int depth) {
  const int blocks = (depth - 2) / 6;
  ResNetBuilder net(options, 3 * blocks);
  net.stem(16, {3, 1, 1}, false);
  for (int layer = 0; layer < 3; ++layer)
    for (int i = 0; i < blocks; ++i) {
      const std::int64_t width = 16 << layer;
      net.basic_block({block_name(layer, i), width, width, layer > 0 && i == 0 ? 2 : 1});
    }
  return net.classifier();
}

Model make_resnet(const ModelOptions& options, int depth) {
  constexpr std::array<int, 4> k18 = {2, 2, 2, 2}, k34 = {3, 4, 6, 3};
  const auto& blocks = depth == 18 ? k18 : k34;  // 50 has the blocks of 34, with three convolutions each
  const bool deep = depth == 50;
  // A stem made for 224 pixels would reduce small images to one pixel; they get the stem of the CIFAR networks.
  const bool small = std::min(options.input.h(), options.input.w()) < 64;
  ResNetBuilder net(options, std::accumulate(blocks.begin(), blocks.end(), 0));
  net.stem(64, small ? Window{3, 1, 1} : Window{7, 2, 3}, !small);
  for (int layer = 0; layer < 4; ++layer)
    for (int i = 0; i < blocks[layer]; ++i) {
      const std::int64_t width = 64 << layer;
      const Block block{block_name(layer, i), width, deep ? 4 * width : width, layer > 0 && i == 0 ? 2 : 1};
      deep ? net.bottleneck(block) : net.basic_block(block);
    }
  return net.classifier();
}

}  // namespace syncbn
