#include "syncbn/nn/model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <span>
#include <string_view>

#include "nn/model_state.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

ModelOptions options_for(const std::string& name, const Shape& input, std::int64_t classes = 10) {
  ModelOptions o;
  o.name = name;
  o.input = input;
  o.classes = classes;
  return o;
}

const Shape kCifar = {1, 3, 32, 32};
const Shape kImageNet = {1, 3, 224, 224};

const LayerSpec& layer(const Model& m, std::string_view name) {
  for (const LayerSpec& l : m.layers)
    if (l.name == name) return l;
  throw Error("no layer " + std::string(name));
}

const ParameterSpec& parameter(const Model& m, const std::string& name) {
  for (const ParameterSpec& p : m.parameters)
    if (p.name == name) return p;
  throw Error("no parameter " + name);
}

std::vector<std::string> layer_names(const Model& m) {
  std::vector<std::string> names;
  for (const LayerSpec& l : m.layers) names.push_back(l.name);
  return names;
}

const std::string& name_at(const Model& m, int index) {
  return m.layers.at(static_cast<std::size_t>(index)).name;
}

std::string usage_error(const ModelOptions& o) {
  try {
    make_model(o);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    return e.what();
  }
  ADD_FAILURE() << "expected an error";
  return "";
}

TEST(Model, ParameterCountsOfCifarResnets) {
  const std::map<std::string, std::int64_t> expected = {{"resnet8", 78'042},   {"resnet20", 272'474},
                                                        {"resnet32", 466'906}, {"resnet44", 661'338},
                                                        {"resnet56", 855'770}, {"resnet110", 1'730'714}};
  for (const auto& [name, count] : expected) {
    EXPECT_EQ(make_model(options_for(name, kCifar)).parameter_count(), count) << name;
    // By hand: stem, 2n convolutions with batch norm per stage (the first of stages 2 and 3 from half the channels),
    // the projections, the classifier.
    const std::int64_t n = (std::stoll(name.substr(6)) - 2) / 6;
    std::int64_t sum = 3 * 16 * 9 + 2 * 16 + 2 * n * (16 * 16 * 9 + 2 * 16) + 64 * 10 + 10;
    for (const std::int64_t c : {32, 64}) sum += 2 * n * (c * c * 9 + 2 * c) - c * c / 2 * 9 + c * c / 2 + 2 * c;
    EXPECT_EQ(sum, count) << name;
  }
}

// FNV-1a of the sorted lines "name [shape]\n" of named_parameters() in torchvision 0.14.1.
TEST(Model, ParametersAreTorchvisions) {
  struct Case {
    std::string name, norm;
    std::size_t tensors;
    std::int64_t count;
    std::uint64_t hash;
  };
  const std::vector<Case> cases = {
      {"resnet18", "batch", 62, 11'689'512, 0x7c2d9f2f5198cd6},
      {"resnet34", "batch", 110, 21'797'672, 0xc6d468baf76f51b0},
      {"resnet50", "batch", 161, 25'557'032, 0x7cad5b4c0284120d},
      {"vgg11", "batch", 38, 132'868'840, 0x7da55de82645657},
      {"vgg16", "batch", 58, 138'365'992, 0xbce31bbcbd2c8de5},
      {"vgg11", "none", 22, 132'863'336, 0x288d104ae091ee95},
      {"vgg16", "none", 32, 138'357'544, 0xc28928e39d007d16},
  };
  for (const Case& c : cases) {
    ModelOptions o = options_for(c.name, kImageNet, 1000);
    o.norm = c.norm;
    const Model m = make_model(o);
    std::set<std::string> lines;
    for (const ParameterSpec& p : m.parameters) {
      std::string line = p.name + " [";
      for (std::size_t i = 0; i < p.dims.size(); ++i) line += (i > 0 ? ", " : "") + std::to_string(p.dims[i]);
      lines.insert(line + "]\n");
    }
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const std::string& line : lines)
      for (const char ch : line) hash = (hash ^ static_cast<unsigned char>(ch)) * 0x100000001b3;
    EXPECT_EQ(m.parameters.size(), c.tensors) << c.name;
    EXPECT_EQ(m.parameter_count(), c.count) << c.name;
    EXPECT_EQ(hash, c.hash) << c.name;
  }
}

TEST(Model, NamesOfTorchvision) {
  const Model m = make_model(options_for("resnet50", kImageNet, 1000));
  EXPECT_EQ(parameter(m, "layer4.2.conv2.weight").dims, (std::vector<std::int64_t>{512, 512, 3, 3}));
  EXPECT_EQ(parameter(m, "layer1.0.downsample.1.bias").dims, (std::vector<std::int64_t>{256}));
  EXPECT_EQ(layer(m, "layer2.0.conv1").stride, 1);
  EXPECT_EQ(layer(m, "layer2.0.conv2").stride, 2);
  EXPECT_EQ(layer(m, "layer2.0.downsample.0").stride, 2);
}

// What Network relies on, for every ready model and every place of the normalization.
TEST(Model, EveryReadyModelIsWellFormed) {
  for (const std::string& name : model_names()) {
    for (const std::string norm : {"before", "after", "none"}) {
      SCOPED_TRACE(name + " " + norm);
      ModelOptions o = options_for(name, kCifar, 7);
      o.norm = norm == "none" ? "none" : "batch";
      o.norm_after_activation = norm == "after";
      const Model m = make_model(o);
      EXPECT_EQ(m.name, name);
      EXPECT_EQ(m.layers.front().type, LayerType::input);
      EXPECT_EQ(m.layers.back().output, (Shape{1, 7}));
      std::set<std::string> names;
      std::vector<int> readers(m.layers.size(), 0);
      for (int i = 0; i < static_cast<int>(m.layers.size()); ++i) {
        const LayerSpec& l = m.layers[i];
        EXPECT_TRUE(names.insert(l.name).second) << l.name;
        EXPECT_LT(l.residual, i) << l.name;
        if (i == 0) continue;
        ASSERT_TRUE(l.input >= 0 && l.input < i) << l.name;
        ++readers[l.input];
        if (l.residual >= 0) ++readers[l.residual];
        EXPECT_EQ(l.type == LayerType::batch_norm && norm == "none", false) << l.name;
        EXPECT_FALSE(l.fused_relu && norm != "before") << l.name;
      }
      EXPECT_EQ(std::count(readers.begin(), readers.end() - 1, 0), 0);
      int last = 0;
      for (const ParameterSpec& p : m.parameters) {
        EXPECT_GE(p.layer, last);
        last = p.layer;
        EXPECT_EQ(p.name.rfind(name_at(m, p.layer) + ".", 0), 0U) << p.name;
        EXPECT_EQ(p.dims.front(), m.layers[p.layer].output.c()) << p.name;
      }
    }
  }
}

TEST(Model, FansCountInputsAndOutputsOfOneWeight) {
  const Model m = make_model(options_for("resnet20", kCifar));
  EXPECT_EQ(parameter(m, "layer2.0.conv1.weight").fan_in, 16 * 9);
  EXPECT_EQ(parameter(m, "layer2.0.conv1.weight").fan_out, 32 * 9);
  EXPECT_EQ(parameter(m, "fc.weight").fan_in, 64);
  EXPECT_EQ(parameter(m, "fc.weight").fan_out, 10);
}

TEST(Model, StemOfResnetsDependsOnTheImage) {
  const Model large = make_model(options_for("resnet18", kImageNet, 1000));
  EXPECT_EQ(layer(large, "conv1").output, (Shape{1, 64, 112, 112}));
  EXPECT_EQ(layer(large, "maxpool").output, (Shape{1, 64, 56, 56}));
  EXPECT_EQ(layer(large, "layer4.1.bn2").output, (Shape{1, 512, 7, 7}));
  EXPECT_EQ(layer(large, "avgpool").output, (Shape{1, 512}));
  const Model small = make_model(options_for("resnet18", kCifar));
  EXPECT_EQ(layer(small, "conv1").output, (Shape{1, 64, 32, 32}));
  EXPECT_EQ(layer(small, "layer4.1.bn2").output, (Shape{1, 512, 4, 4}));
}

TEST(Model, LenetPadsSmallImages) {
  const Model mnist = make_model(options_for("lenet", {1, 1, 28, 28}));
  EXPECT_EQ(layer(mnist, "flatten").output, (Shape{1, 400}));
  EXPECT_EQ(layer(make_model(options_for("lenet", kCifar)), "flatten").output, (Shape{1, 400}));
  EXPECT_EQ(layer_names(mnist), (std::vector<std::string>{"input", "conv1", "bn1", "pool1", "conv2", "bn2", "pool2",
                                                          "flatten", "fc1", "bn3", "fc2", "bn4", "fc3"}));
}

TEST(Model, VggFitsItsClassifierToTheImage) {
  const Model small = make_model(options_for("vgg11", kCifar));
  EXPECT_EQ(parameter(small, "classifier.weight").dims, (std::vector<std::int64_t>{10, 512}));
  const Model large = make_model(options_for("vgg11", kImageNet, 1000));
  EXPECT_EQ(parameter(large, "classifier.0.weight").dims, (std::vector<std::int64_t>{4096, 25088}));
  EXPECT_EQ(layer(large, "classifier.2").p, 0.5);
}

TEST(Model, BlocksFuseAdditionAndRelu) {
  const Model m = make_model(options_for("resnet20", kCifar));
  const LayerSpec& bn1 = layer(m, "layer1.0.bn1");
  EXPECT_TRUE(bn1.fused_relu);
  EXPECT_EQ(bn1.residual, -1);
  const LayerSpec& bn2 = layer(m, "layer1.0.bn2");
  EXPECT_TRUE(bn2.fused_relu);
  EXPECT_EQ(name_at(m, bn2.input), "layer1.0.conv2");
  EXPECT_EQ(name_at(m, bn2.residual), "bn1");
  EXPECT_EQ(name_at(m, layer(m, "layer2.0.bn2").residual), "layer2.0.downsample.1");
  EXPECT_FALSE(layer(m, "layer2.0.downsample.1").fused_relu);
  for (const LayerSpec& l : m.layers) EXPECT_FALSE(l.type == LayerType::add || l.type == LayerType::relu) << l.name;
}

TEST(Model, NormAfterActivation) {
  ModelOptions o = options_for("resnet20", kCifar);
  o.norm_after_activation = true;
  const Model m = make_model(o);
  const std::vector<std::string> names = layer_names(m);
  const auto at = std::find(names.begin(), names.end(), "layer2.0.downsample.0");
  ASSERT_GE(names.end() - at, 9);
  EXPECT_EQ(
      std::vector<std::string>(at, at + 9),
      (std::vector<std::string>{"layer2.0.downsample.0", "layer2.0.downsample.1", "layer2.0.conv1", "layer2.0.relu1",
                                "layer2.0.bn1", "layer2.0.conv2", "layer2.0.add", "layer2.0.relu2", "layer2.0.bn2"}));
  EXPECT_EQ(name_at(m, layer(m, "layer2.0.add").residual), "layer2.0.downsample.1");
  // A bias is idle only where a normalization follows at once.
  EXPECT_TRUE(layer(m, "layer2.0.conv1").bias);
  EXPECT_FALSE(layer(m, "layer2.0.downsample.0").bias);
  EXPECT_FALSE(layer(make_model(options_for("resnet20", kCifar)), "layer2.0.conv1").bias);
}

TEST(Model, WithoutNormEveryLayerHasABias) {
  for (const std::string& name : model_names()) {
    ModelOptions o = options_for(name, kCifar);
    o.norm = "none";
    for (const LayerSpec& l : make_model(o).layers)
      EXPECT_EQ(l.bias, l.type == LayerType::conv2d || l.type == LayerType::linear) << name << " " << l.name;
  }
}

TEST(Model, ActivationOfSmallNetworks) {
  ModelOptions o = options_for("mlp", {1, 1, 28, 28});
  o.hidden = {100, 100, 100};
  o.activation = "sigmoid";
  o.dropout = 0.25;
  const Model m = make_model(o);
  EXPECT_EQ(layer_names(m), (std::vector<std::string>{"input", "flatten", "fc1", "bn1", "act1", "fc2", "bn2", "act2",
                                                      "fc3", "bn3", "act3", "dropout", "fc4"}));
  EXPECT_EQ(layer(m, "act2").type, LayerType::sigmoid);
  EXPECT_EQ(layer(m, "dropout").p, 0.25);
  EXPECT_FALSE(layer(m, "fc1").bias);
  EXPECT_TRUE(layer(m, "fc4").bias);
  EXPECT_EQ(parameter(m, "fc1.weight").init, Init::glorot);
  o.activation = "leaky_relu";
  EXPECT_EQ(layer(make_model(o), "act1").slope, 0.01);
}

TEST(Model, Initialization) {
  ModelOptions o = options_for("resnet20", kCifar);
  EXPECT_EQ(parameter(make_model(o), "conv1.weight").init, Init::he);
  EXPECT_EQ(parameter(make_model(o), "fc.weight").init, Init::gaussian);
  EXPECT_EQ(parameter(make_model(o), "fc.weight").init_std, 0.01);
  EXPECT_EQ(parameter(make_model(o), "layer1.0.bn2.weight").init_value, 1);
  EXPECT_EQ(parameter(make_model(o), "layer1.0.bn2.weight").kind, ParameterKind::norm_weight);
  EXPECT_EQ(parameter(make_model(o), "layer1.0.bn2.bias").init_value, 0);
  o.zero_init_residual = true;
  EXPECT_EQ(parameter(make_model(o), "layer1.0.bn2.weight").init_value, 0);
  EXPECT_EQ(parameter(make_model(o), "layer1.0.bn1.weight").init_value, 1);
  o.init = "gaussian";
  o.init_std = 0.5;
  for (const ParameterSpec& p : make_model(o).parameters)
    EXPECT_EQ(p.init_std, p.kind == ParameterKind::weight ? 0.5 : 0.0) << p.name;
  o.init = "glorot";
  EXPECT_EQ(parameter(make_model(o), "fc.weight").init, Init::glorot);
}

/// Of a new network's weights.
double deviation(const ModelOptions& options, const std::string& name) {
  const auto backend = ops::make_cpu_backend();
  ModelState state(make_model(options), {}, *backend);
  state.initialize(1);
  for (std::size_t i = 0; i < state.model().parameters.size(); ++i) {
    if (state.model().parameters[i].name != name) continue;
    const std::span<const float> values = state.values(state.parameter(static_cast<int>(i)));
    double squares = 0;
    for (const float v : values) squares += static_cast<double>(v) * v;
    return std::sqrt(squares / static_cast<double>(values.size()));
  }
  ADD_FAILURE() << name;
  return 0;
}

// He et al. 2015: by outputs for convolutions, as torchvision, by inputs for the rest; Glorot & Bengio 2010: by both.
TEST(Model, WeightsStartWithThePublishedDeviations) {
  const auto near = [](double found, double expected) { EXPECT_NEAR(found, expected, 0.05 * expected); };
  ModelOptions o = options_for("resnet20", kCifar);
  o.init = "he";
  near(deviation(o, "layer2.0.conv1.weight"), std::sqrt(2.0 / (9 * 32)));
  o.init = "glorot";
  near(deviation(o, "layer2.0.conv1.weight"), std::sqrt(2.0 / (9 * 16 + 9 * 32)));
  ModelOptions mlp = options_for("mlp", kCifar);
  mlp.hidden = {100};
  mlp.init = "he";
  near(deviation(mlp, "fc1.weight"), std::sqrt(2.0 / 3072));
  mlp.init = "glorot";
  near(deviation(mlp, "fc1.weight"), std::sqrt(2.0 / (3072 + 100)));
}

TEST(Model, NormWithoutAffineHasNoParameters) {
  ModelOptions o = options_for("resnet20", kCifar);
  o.norm_affine = false;
  for (const ParameterSpec& p : make_model(o).parameters)
    EXPECT_TRUE(p.kind == ParameterKind::weight || p.kind == ParameterKind::bias) << p.name;
}

TEST(Model, RefusesOptionsThatWouldBeIgnoredOrAreWrong) {
  const auto error = [](const std::string& name, auto change) {
    ModelOptions o = options_for(name, kCifar);
    change(o);
    return usage_error(o);
  };
  const auto expect = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect(error("resnet21", [](auto&) {}), "did you mean 'resnet20'?");
  expect(error("transformer", [](auto&) {}), "not one of mlp, lenet");
  expect(error("resnet20", [](auto& o) { o.activation = "tanh"; }), "model.activation");
  expect(error("mlp", [](auto& o) { o.activation = "sigmoidd"; }), "did you mean 'sigmoid'?");
  expect(error("mlp", [](auto& o) { o.zero_init_residual = true; }), "zero_init_residual");
  expect(error("mlp", [](auto& o) { o.hidden = {10, 0}; }), "layer 'fc2' (linear): out = 0");
  expect(error("mlp", [](auto& o) { o.hidden = {std::int64_t{1} << 30, std::int64_t{1} << 30}; }), "too many");
  expect(error("mlp", [](auto& o) { o.dropout = 1; }), "model.dropout");
  expect(error("mlp", [](auto& o) { o.init = "xavier"; }), "model.init");
  expect(error("mlp", [](auto& o) { o.norm = "bach"; }), "did you mean 'batch'?");
  expect(error("mlp", [](auto& o) { o.classes = 0; }), "0 classes");
  expect(error("mlp", [](auto& o) { o.input = {1, 3, 0, 8}; }), "[1, 3, 0, 8] is not an image");
  expect(error("resnet20",
               [](auto& o) {
                 o.zero_init_residual = true;
                 o.norm_after_activation = true;
               }),
         "norm.position: before");
  expect(error("vgg11", [](auto& o) { o.input = {1, 1, 28, 28}; }), "at least 32x32");
  expect(error("vgg16", [](auto& o) { o.input = {1, 3, 96, 96}; }), "224x224");
  expect(error("lenet", [](auto& o) { o.input = {1, 1, 5, 5}; }), "layer 'conv2' (conv2d): kernel 5x5 does not fit");
}

}  // namespace
}  // namespace syncbn
