#include <fmt/format.h>

#include <algorithm>

#include "nn/models/models.hpp"
#include "syncbn/core/error.hpp"

// Simonyan & Zisserman 2014 (arXiv 1409.1556), configurations A and D, with batch norm: torchvision's vgg11_bn and
// vgg16_bn (vgg11 and vgg16 without). As in torchvision, convolutions keep their bias even if a normalization makes it
// redundant, so that weights can be exchanged. Images below 64 pixels get a single linear classifier over the averaged
// features, as is common on CIFAR.

namespace syncbn {
namespace {

constexpr std::int64_t kPool = 0;
const std::vector<std::int64_t> kVgg11 = {64, kPool, 128, kPool, 256, 256, kPool, 512, 512, kPool, 512, 512, kPool};
const std::vector<std::int64_t> kVgg16 = {64,    64,  kPool, 128, 128,   kPool, 256, 256, 256,
                                          kPool, 512, 512,   512, kPool, 512,   512, 512, kPool};

int add_features(ModelBuilder& b, const NormRule& norm, const std::vector<std::int64_t>& plan) {
  int x = b.input();
  int position = 0;  // index in torchvision's Sequential
  const auto name = [](int i) { return "features." + std::to_string(i); };
  for (const std::int64_t width : plan) {
    if (width == kPool) {
      x = b.pool(name(position++), x, LayerType::max_pool, {2, 2, 0});
      continue;
    }
    x = b.conv2d(name(position++), x, width, {3, 1, 1}, true, {});
    const int first = position++;
    const int second = norm.present() ? position++ : first;
    const int bn = norm.after_activation() ? second : first;
    x = norm.norm_and_activation(b, x, name(bn), name(first + second - bn), LayerType::relu);
  }
  return x;
}

/// Appends torchvision's classifier: 25088 -> 4096 -> 4096 -> classes, dropout of 0.5 unless the options say otherwise.
void add_large_classifier(ModelBuilder& b, int x, const ModelOptions& options) {
  const double p = options.dropout > 0 ? options.dropout : 0.5;
  x = b.flatten("flatten", x);
  for (const int i : {0, 3}) {
    const auto name = [i](int offset) { return "classifier." + std::to_string(i + offset); };
    x = b.linear(name(0), x, 4096, true, kClassifierInit);
    x = b.activation(name(1), x, LayerType::relu, 0);
    x = b.dropout(name(2), x, p);
  }
  b.linear("classifier.6", x, options.classes, true, kClassifierInit);
}

void add_small_classifier(ModelBuilder& b, int x, const ModelOptions& options) {
  x = b.global_avg_pool("avgpool", x);
  if (options.dropout > 0) x = b.dropout("dropout", x, options.dropout);
  b.linear("classifier", x, options.classes, true, kClassifierInit);
}

}  // namespace

Model make_vgg(const ModelOptions& options, int depth) {
  const auto& in = options.input;
  if (in.h() < 32 || in.w() < 32)
    throw Error(fmt::format("model {}: it halves its input {} five times and needs at least 32x32 pixels: choose lenet "
                            "or a resnet for smaller images",
                            options.name, in.str()),
                ExitCode::usage);
  ModelBuilder b = make_builder(options);
  const int x = add_features(b, NormRule(options), depth == 11 ? kVgg11 : kVgg16);
  if (std::min(in.h(), in.w()) < 64) {
    add_small_classifier(b, x, options);
  } else if (b.shape(x) == Shape{1, 512, 7, 7}) {
    add_large_classifier(b, x, options);
  } else {
    throw Error(fmt::format("model {}: input {} gives features {}, but its classifier is made for 7x7: use images of "
                            "224x224, or of less than 64 pixels",
                            options.name, in.str(), b.shape(x).str()),
                ExitCode::usage);
  }
  return b.finish(options.classes);
}

}  // namespace syncbn
