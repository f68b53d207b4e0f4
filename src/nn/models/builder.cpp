#include "nn/models/builder.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

// Limits far above any real network, which catch mistyped numbers before anything overflows or is allocated.
constexpr double kMaxElements = 1e12;
constexpr std::int64_t kMaxExtent = std::int64_t{1} << 31;

LayerSpec spec(LayerType type, const std::string& name, int x) {
  LayerSpec layer;
  layer.type = type;
  layer.name = name;
  layer.input = x;
  return layer;
}

LayerSpec windowed(LayerType type, const std::string& name, int x, Window window) {
  LayerSpec layer = spec(type, name, x);
  layer.kernel_h = layer.kernel_w = window.kernel;
  layer.stride = window.stride;
  layer.padding = window.padding;
  return layer;
}

double product(const std::vector<std::int64_t>& dims) {
  double p = 1;
  for (const auto d : dims) p *= static_cast<double>(d);
  return p;
}

}  // namespace

ModelBuilder::ModelBuilder(const std::string& model, const Shape& image, std::optional<WeightInit> override,
                           bool weight_norm)
    : override_(override), weight_norm_(weight_norm), context_("model " + model) {
  if (image.rank() != 4 || image.n() != 1 || image.c() < 1 || image.h() < 1 || image.w() < 1)
    throw Error(fmt::format("{}: input {} is not an image: give [1, channels, height, width]", context_, image.str()),
                ExitCode::usage);
  model_.name = model;
  append(spec(LayerType::input, "input", -1), image);
}

const Shape& ModelBuilder::shape(int layer) const {
  return model_.layers.at(static_cast<std::size_t>(layer)).output;
}

void ModelBuilder::fail(const std::string& name, LayerType type, const std::string& what) const {
  const auto own = contexts_.find(name);
  throw Error(fmt::format("{}: layer '{}' ({}): {}", own == contexts_.end() ? context_ : own->second, name,
                          name_of(type), what),
              ExitCode::usage);
}

int ModelBuilder::append(LayerSpec layer, const Shape& output) {
  const std::vector<std::int64_t> extents = {output.c(), output.h(), output.w()};
  if (product(extents) > kMaxElements)
    fail(layer.name, layer.type, fmt::format("output {} is too large: use smaller numbers", output.str()));
  if (!names_.insert(layer.name).second) fail(layer.name, layer.type, "another layer has this name: give each its own");
  layer.output = output;
  model_.layers.push_back(std::move(layer));
  return static_cast<int>(model_.layers.size()) - 1;
}

void ModelBuilder::require_image(const LayerSpec& layer) const {
  const Shape& in = shape(layer.input);
  if (in.rank() != 4)
    fail(layer.name, layer.type,
         fmt::format("needs an input [1, C, H, W], got {}: move it before the flatten or global_avg_pool", in.str()));
}

Shape ModelBuilder::slide(const LayerSpec& layer, std::int64_t channels) const {
  const Shape& in = shape(layer.input);
  const std::int64_t k = layer.kernel_h, s = layer.stride, p = layer.padding;
  if (k < 1 || k > kMaxExtent || s < 1 || s > kMaxExtent)
    fail(layer.name, layer.type, fmt::format("kernel {} and stride {} must be in 1..{}", k, s, kMaxExtent));
  // A window entirely in the padding has no maximum, and is useless to a convolution.
  const std::int64_t most = layer.type == LayerType::conv2d ? k - 1 : k / 2;
  if (p < 0 || p > most)
    fail(layer.name, layer.type, fmt::format("padding {} is outside 0..{} for kernel {}", p, most, k));
  if (k > in.h() + 2 * p || k > in.w() + 2 * p)
    fail(layer.name, layer.type,
         fmt::format("kernel {}x{} does not fit its input {} with padding {}: use a smaller kernel, more padding, less "
                     "stride before it, or larger images",
                     k, k, in.str(), p));
  return {1, channels, (in.h() + 2 * p - k) / s + 1, (in.w() + 2 * p - k) / s + 1};
}

void ModelBuilder::add_weight(int layer, std::vector<std::int64_t> dims, WeightInit init) {
  const LayerSpec& l = model_.layers.at(static_cast<std::size_t>(layer));
  if (product(dims) > kMaxElements)
    fail(l.name, l.type, fmt::format("{:.0f} weights are too many: use smaller numbers", product(dims)));
  if (override_) init = *override_;
  ParameterSpec p;
  p.name = l.name + (weight_norm_ ? ".weight_v" : ".weight");
  p.layer = layer;
  p.init = init.init;
  p.init_std = init.init == Init::gaussian ? init.std : 0;
  p.init_scale = init.scale;
  p.fan_in = dims[1] * l.kernel_h * l.kernel_w;
  p.fan_out = dims[0] * l.kernel_h * l.kernel_w;
  p.dims = dims;
  model_.parameters.push_back(std::move(p));
  if (!weight_norm_) return;
  std::fill(dims.begin() + 1, dims.end(), 1);
  add_parameter(layer, ".weight_g", ParameterKind::weight_gain, std::move(dims), 0);
}

void ModelBuilder::add_parameter(int layer, const std::string& suffix, ParameterKind kind,
                                 std::vector<std::int64_t> dims, double value) {
  ParameterSpec p;
  p.name = model_.layers.at(static_cast<std::size_t>(layer)).name + suffix;
  p.kind = kind;
  p.dims = std::move(dims);
  p.layer = layer;
  p.init_value = value;
  model_.parameters.push_back(std::move(p));
}

int ModelBuilder::conv2d(const std::string& name, int x, std::int64_t out, Window window, bool bias, WeightInit init) {
  LayerSpec layer = windowed(LayerType::conv2d, name, x, window);
  layer.bias = bias;
  require_image(layer);
  if (out < 1 || out > kMaxExtent)
    fail(name, layer.type, fmt::format("out = {} channels: give 1 to {}", out, kMaxExtent));
  const int i = append(layer, slide(layer, out));
  add_weight(i, {out, shape(x).c(), window.kernel, window.kernel}, init);
  if (bias) add_parameter(i, ".bias", ParameterKind::bias, {out}, 0);
  return i;
}

int ModelBuilder::linear(const std::string& name, int x, std::int64_t out, bool bias, WeightInit init) {
  LayerSpec layer = spec(LayerType::linear, name, x);
  layer.bias = bias;
  if (shape(x).rank() != 2)
    fail(name, layer.type,
         fmt::format("needs an input [1, F], got {}: put a flatten or global_avg_pool before it", shape(x).str()));
  if (out < 1 || out > kMaxExtent)
    fail(name, layer.type, fmt::format("out = {} features: give 1 to {}", out, kMaxExtent));
  const int i = append(layer, {1, out});
  add_weight(i, {out, shape(x).c()}, init);
  if (bias) add_parameter(i, ".bias", ParameterKind::bias, {out}, 0);
  return i;
}

int ModelBuilder::add_norm(LayerSpec layer, bool affine, double weight) {
  const Shape output = shape(layer.input);  // copied, since append() moves the layers
  const int i = append(std::move(layer), output);
  if (!affine) return i;
  add_parameter(i, ".weight", ParameterKind::norm_weight, {output.c()}, weight);
  add_parameter(i, ".bias", ParameterKind::norm_bias, {output.c()}, 0);
  return i;
}

int ModelBuilder::batch_norm(const std::string& name, int x, bool affine, double weight) {
  return add_norm(spec(LayerType::batch_norm, name, x), affine, weight);
}

int ModelBuilder::group_norm(const std::string& name, int x, std::int64_t groups, bool affine, double weight) {
  LayerSpec layer = spec(LayerType::group_norm, name, x);
  layer.groups = groups;
  const Shape& in = shape(x);
  if (groups < 1 || in.c() % groups != 0)
    fail(name, layer.type, fmt::format("{} groups do not divide the {} channels of {}", groups, in.c(), in.str()));
  if (in.c() / groups * in.spatial() == 1)
    fail(
        name, layer.type,
        fmt::format("a sample has one value per channel in {}, which has no variance: choose norm.type: layer or group",
                    in.str()));
  return add_norm(std::move(layer), affine, weight);
}

int ModelBuilder::whitening(const std::string& name, int x, std::int64_t group_channels, bool affine, double weight) {
  LayerSpec layer = spec(LayerType::whitening, name, x);
  const std::int64_t channels = shape(x).c();
  std::int64_t width = std::min(group_channels, channels);
  while (channels % width != 0) --width;
  layer.groups = channels / width;
  return add_norm(std::move(layer), affine, weight);
}

int ModelBuilder::activation(const std::string& name, int x, LayerType type, double slope) {
  LayerSpec layer = spec(type, name, x);
  if (type == LayerType::leaky_relu) {
    // The backward pass tells the branch by the output's sign, which is ambiguous with a negative slope.
    if (!(slope >= 0 && slope <= 1)) fail(name, type, fmt::format("slope {} is outside [0, 1]", slope));
    layer.slope = slope;
  }
  return append(layer, shape(x));
}

int ModelBuilder::pool(const std::string& name, int x, LayerType type, Window window) {
  const LayerSpec layer = windowed(type, name, x, window);
  require_image(layer);
  return append(layer, slide(layer, shape(x).c()));
}

int ModelBuilder::global_avg_pool(const std::string& name, int x) {
  const LayerSpec layer = spec(LayerType::global_avg_pool, name, x);
  require_image(layer);
  return append(layer, {1, shape(x).c()});
}

int ModelBuilder::dropout(const std::string& name, int x, double p) {
  LayerSpec layer = spec(LayerType::dropout, name, x);
  if (!(p >= 0 && p < 1)) fail(name, layer.type, fmt::format("p = {} is outside [0, 1)", p));
  layer.p = p;
  return append(layer, shape(x));
}

int ModelBuilder::flatten(const std::string& name, int x) {
  return append(spec(LayerType::flatten, name, x), {1, shape(x).elements()});
}

int ModelBuilder::add(const std::string& name, int x, int other) {
  LayerSpec layer = spec(LayerType::add, name, x);
  layer.residual = other;
  if (shape(x) != shape(other)) {
    const auto& layers = model_.layers;
    fail(name, layer.type,
         fmt::format("'{}' {} and '{}' {} differ in shape: make them equal, e.g. by a 1x1 conv2d on the shortcut",
                     layers[x].name, shape(x).str(), layers[other].name, shape(other).str()));
  }
  return append(layer, shape(x));
}

void ModelBuilder::require_all_used() const {
  const auto& layers = model_.layers;
  std::vector<bool> used(layers.size(), false);
  used.back() = true;
  for (const LayerSpec& l : layers) {
    if (l.input >= 0) used[l.input] = true;
    if (l.residual >= 0) used[l.residual] = true;
  }
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (!used[i])
      fail(layers[i].name, layers[i].type,
           "no later layer reads its output: remove it, or name it in another's 'from'");
}

Model ModelBuilder::finish(std::int64_t classes) {
  const LayerSpec& last = model_.layers.back();
  if (last.output != Shape{1, classes})
    fail(last.name, last.type,
         fmt::format("the model ends in {} but must yield one value per class, [1, {}]: end it in a linear layer with "
                     "out = {}",
                     last.output.str(), classes, classes));
  require_all_used();
  fuse_norms(model_);
  return std::move(model_);
}

}  // namespace syncbn
