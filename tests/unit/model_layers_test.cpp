#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "nn/models/builder.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/nn/model.hpp"

namespace syncbn {
namespace {

LayerConfig entry(const std::string& type, const std::string& name = "", const std::string& from = "") {
  LayerConfig l;
  l.type = type;
  l.name = name;
  l.from = from;
  return l;
}

LayerConfig conv(std::int64_t out, std::int64_t kernel, std::int64_t padding, const std::string& name = "") {
  LayerConfig l = entry("conv2d", name);
  l.out = out;
  l.kernel = kernel;
  l.padding = padding;
  return l;
}

LayerConfig linear(std::int64_t out) {
  LayerConfig l = entry("linear");
  l.out = out;
  return l;
}

LayerConfig pool(std::int64_t kernel) {
  LayerConfig l = entry("max_pool");
  l.kernel = kernel;
  return l;
}

/// A residual network in miniature.
ModelOptions small_list() {
  ModelOptions o;
  o.name = "layers";
  o.input = {1, 3, 8, 8};
  o.layers = {conv(4, 3, 1, "stem"),
              entry("batch_norm"),
              entry("relu", "act"),
              conv(4, 3, 1),
              entry("batch_norm", "last"),
              entry("add", "", "act"),
              entry("relu"),
              pool(2),
              entry("flatten"),
              linear(10)};
  return o;
}

const LayerSpec& layer(const Model& m, const std::string& name) {
  for (const LayerSpec& l : m.layers)
    if (l.name == name) return l;
  throw Error("no layer " + name);
}

TEST(ModelLayers, BuildsAndFuses) {
  const Model m = make_model(small_list());
  std::vector<std::string> names;
  for (const LayerSpec& l : m.layers) names.push_back(l.name);
  EXPECT_EQ(names, (std::vector<std::string>{"input", "stem", "batch_norm1", "conv2d3", "last", "max_pool7", "flatten8",
                                             "linear9"}));
  EXPECT_TRUE(layer(m, "batch_norm1").fused_relu);
  EXPECT_TRUE(layer(m, "last").fused_relu);
  EXPECT_EQ(layer(m, "last").residual, 2);
  EXPECT_EQ(layer(m, "conv2d3").stride, 1);
  EXPECT_EQ(layer(m, "max_pool7").stride, 2);
  EXPECT_EQ(layer(m, "max_pool7").output, (Shape{1, 4, 4, 4}));
  EXPECT_EQ(m.parameter_count(), 4 * 27 + 4 + 8 + 4 * 36 + 4 + 8 + 640 + 10);
}

TEST(ModelLayers, WithoutNormDropsTheEntriesAndKeepsTheirNames) {
  ModelOptions o = small_list();
  o.norm = "none";
  o.layers[2].from = "batch_norm1";
  const Model m = make_model(o);
  for (const LayerSpec& l : m.layers) EXPECT_NE(l.type, LayerType::batch_norm);
  EXPECT_EQ(layer(m, "act").input, 1);
  EXPECT_EQ(layer(m, "add5").input, 3);
  EXPECT_EQ(layer(m, "add5").residual, 2);
}

TEST(ModelLayers, ReadsEveryType) {
  ModelOptions o;
  o.name = "layers";
  o.input = {1, 3, 9, 9};
  o.layers = {entry("leaky_relu"), entry("avg_pool"),        entry("sigmoid"), entry("tanh"),
              entry("dropout"),    entry("global_avg_pool"), linear(10)};
  o.layers[0].slope = 0.2;
  o.layers[1].kernel = 3;
  o.layers[1].stride = 1;
  o.layers[4].p = 0.3;
  const Model m = make_model(o);
  EXPECT_EQ(layer(m, "leaky_relu0").slope, 0.2);
  EXPECT_EQ(layer(m, "avg_pool1").output, (Shape{1, 3, 7, 7}));
  EXPECT_EQ(layer(m, "dropout4").p, 0.3);
  EXPECT_EQ(layer(m, "global_avg_pool5").output, (Shape{1, 3}));
  EXPECT_EQ(m.parameters.front().init, Init::glorot);
}

TEST(ModelLayers, ErrorsSayWhereAndWhat) {
  const auto expect = [](auto change, const std::vector<std::string>& parts) {
    ModelOptions o = small_list();
    change(o);
    try {
      make_model(o);
      ADD_FAILURE() << "expected: " << parts.back();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::usage);
      for (const std::string& part : parts) EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  expect([](auto& o) { o.layers.clear(); }, {"model.layers is empty"});
  expect([](auto& o) { o.layers[0].type = "conv2"; }, {"model.layers[0]", "did you mean 'conv2d'?"});
  expect([](auto& o) { o.layers[0].type = "attention"; }, {"'attention' is not one of norm, conv2d, linear"});
  expect([](auto& o) { o.layers[5].from = "akt"; }, {"model.layers[5]: layer 'add5' (add)", "did you mean 'act'?"});
  expect([](auto& o) { o.layers[5].from = ""; }, {"model.layers[5]", "'from' must name the layer to add"});
  expect([](auto& o) { o.layers[3].out = 5; }, {"'last' [1, 5, 8, 8] and", "[1, 4, 8, 8] differ in shape"});
  expect([](auto& o) { o.layers[3].name = "stem"; }, {"model.layers[3]", "another layer has this name"});
  expect([](auto& o) { o.layers[3].kernel = 0; }, {"model.layers[3]", "kernel 0"});
  expect([](auto& o) { o.layers[3].kernel = 11; }, {"11x11 does not fit its input [1, 4, 8, 8]", "smaller kernel"});
  expect([](auto& o) { o.layers[3].stride = -1; }, {"stride -1"});
  expect([](auto& o) { o.layers[3].padding = 3; }, {"padding 3 is outside 0..2"});
  expect([](auto& o) { o.layers[7].padding = 2; }, {"padding 2 is outside 0..1"});
  expect([](auto& o) { o.layers[3].out = 0; }, {"out = 0 channels"});
  expect([](auto& o) { o.layers[3].out = std::int64_t{1} << 62; }, {"model.layers[3]", "out = "});
  expect([](auto& o) { o.layers.erase(o.layers.begin() + 8); },
         {"model.layers[8]: layer 'linear8' (linear)", "[1, 4, 4, 4]", "put a flatten or global_avg_pool before it"});
  expect([](auto& o) { std::swap(o.layers[7], o.layers[8]); }, {"needs an input [1, C, H, W], got [1, 256]"});
  expect([](auto& o) { o.layers[9].out = 9; }, {"ends in [1, 9]", "out = 10"});
  expect([](auto& o) { o.layers[3].from = "stem", o.layers[5].from = "stem"; },
         {"layer 'act' (relu)", "no later layer"});
  expect([](auto& o) { o.layers[6] = entry("dropout"), o.layers[6].p = 1; }, {"p = 1 is outside [0, 1)"});
  expect([](auto& o) { o.layers[6] = entry("leaky_relu"), o.layers[6].slope = -1; }, {"slope -1"});
  expect([](auto& o) { o.norm_after_activation = true; }, {"norm.position"});
  expect([](auto& o) { o.dropout = 0.5; }, {"model.dropout"});
}

/// Numbers what a model's layers compute, so that equal numbers mean equal expressions.
class Expressions {
 public:
  int of(const Model& m) {
    std::vector<int> value;
    for (const LayerSpec& l : m.layers) {
      const auto in = [&](int i) { return value.at(static_cast<std::size_t>(i)); };
      int v = l.input < 0 ? number("input") : 0;
      if (l.type == LayerType::conv2d || l.type == LayerType::batch_norm) v = number(l.name, in(l.input));
      if (l.type == LayerType::relu) v = number("relu", in(l.input));
      if (l.type == LayerType::add) v = in(l.input);
      if (l.residual >= 0) v = number("add", std::min(v, in(l.residual)), std::max(v, in(l.residual)));
      if (l.fused_relu) v = number("relu", v);
      value.push_back(v);
    }
    return value.back();
  }

 private:
  int number(const std::string& op, int a = 0, int b = 0) {
    return seen_.try_emplace(op + " " + std::to_string(a) + " " + std::to_string(b), static_cast<int>(seen_.size()) + 1)
        .first->second;
  }
  std::map<std::string, int> seen_;
};

/// Ten layers that read each other at random, each read by somebody.
Model random_model(std::mt19937& random) {
  const std::vector<LayerType> types = {LayerType::conv2d, LayerType::batch_norm, LayerType::batch_norm,
                                        LayerType::relu, LayerType::add};
  Model m;
  std::vector<bool> read;
  do {
    m = {};
    m.layers.resize(10);
    read.assign(10, false);
    for (int i = 1; i < 10; ++i) {
      LayerSpec& l = m.layers[i];
      const auto earlier = [&] {
        const int from = std::max(0, i - 1 - static_cast<int>(random() % 3));
        read[from] = true;
        return from;
      };
      l.type = types[random() % types.size()];
      l.name = "layer" + std::to_string(i);
      l.input = earlier();
      if (l.type == LayerType::add) l.residual = earlier();
      ParameterSpec p;
      p.name = l.name;
      p.layer = i;
      if (l.type == LayerType::batch_norm) m.parameters.push_back(p);
    }
  } while (std::find(read.begin(), read.end() - 1, false) != read.end() - 1);
  return m;
}

TEST(ModelFusion, KeepsTheComputationOfRandomNetworks) {
  std::mt19937 random(1);
  int merged = 0;
  for (int round = 0; round < 2000; ++round) {
    const Model m = random_model(random);
    Model fused = m;
    fuse_norms(fused);
    Expressions expressions;
    ASSERT_EQ(expressions.of(fused), expressions.of(m)) << "round " << round;
    for (int i = 0; i < static_cast<int>(fused.layers.size()); ++i) {
      EXPECT_LT(fused.layers[i].input, i);
      const LayerSpec& l = fused.layers[i];
      EXPECT_LT(l.residual, i);
      // Both gradients of one sweep would go to the same place.
      EXPECT_FALSE(l.type == LayerType::batch_norm && l.residual == l.input) << "round " << round;
    }
    for (const ParameterSpec& p : fused.parameters)
      EXPECT_EQ(fused.layers.at(static_cast<std::size_t>(p.layer)).name, p.name);
    merged += static_cast<int>(m.layers.size() - fused.layers.size());
  }
  EXPECT_GT(merged, 1500);
}

}  // namespace
}  // namespace syncbn
