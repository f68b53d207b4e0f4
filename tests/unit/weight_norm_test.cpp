#include "nn/normalization/weight_norm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "nn/model_state.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

std::vector<float> normals(std::size_t n, std::uint64_t seed) {
  Random random(seed, Purpose::test);
  std::vector<float> values(n);
  for (float& v : values) v = static_cast<float>(random.normal());
  return values;
}

/// sum(dw * w), w = g v / |v|, in f64.
double loss(const std::vector<double>& g, const std::vector<double>& v, const std::vector<float>& dw) {
  const std::size_t inputs = v.size() / g.size();
  double sum = 0;
  for (std::size_t o = 0; o < g.size(); ++o) {
    double square = 0, product = 0;
    for (std::size_t i = o * inputs; i < (o + 1) * inputs; ++i) {
      square += v[i] * v[i];
      product += static_cast<double>(dw[i]) * v[i];
    }
    sum += g[o] * product / std::sqrt(square);
  }
  return sum;
}

TEST(WeightNorm, AgreesWithTheDefinition) {
  for (const std::size_t inputs : {1, 9, 50}) {
    const std::size_t outputs = 5;
    const std::vector<float> g = normals(outputs, 1), v = normals(outputs * inputs, 2), dw = normals(v.size(), 3);
    std::vector<float> w(v.size()), d_v = dw, d_g(outputs);
    weight_norm(g, v, w);
    weight_norm_gradient(g, v, d_v, d_g);

    std::vector<double> gain(g.begin(), g.end()), direction(v.begin(), v.end());
    const auto slope = [&](double& value) {
      const double kept = value, h = 1e-5;
      value = kept + h;
      const double above = loss(gain, direction, dw);
      value = kept - h;
      const double below = loss(gain, direction, dw);
      value = kept;
      return (above - below) / (2 * h);
    };
    for (std::size_t o = 0; o < outputs; ++o) {
      double square = 0;
      for (std::size_t i = 0; i < inputs; ++i) square += std::pow(direction[o * inputs + i], 2);
      for (std::size_t i = o * inputs; i < (o + 1) * inputs; ++i) {
        EXPECT_NEAR(w[i], gain[o] * direction[i] / std::sqrt(square), 1e-6);
        EXPECT_NEAR(d_v[i], slope(direction[i]), 1e-5 * std::max(1.0, std::abs(gain[o] / std::sqrt(square))));
      }
      EXPECT_NEAR(d_g[o], slope(gain[o]), 1e-5);
    }
  }
}

TEST(WeightNorm, ZeroRowsStayFinite) {
  const std::vector<float> g = {1}, v = {0, 0};
  std::vector<float> w = {5, 5}, d_v = {1, 2}, d_g = {3};
  weight_norm(g, v, w);
  weight_norm_gradient(g, v, d_v, d_g);
  EXPECT_EQ(w, (std::vector<float>{0, 0}));
  EXPECT_EQ(d_v, (std::vector<float>{0, 0}));
  EXPECT_EQ(d_g, (std::vector<float>{0}));
}

ModelOptions resnet(const std::string& norm) {
  ModelOptions o;
  o.name = "resnet20";
  o.input = Shape{1, 3, 32, 32};
  o.norm = norm;
  return o;
}

// PyTorch's names and shapes; and the start that the same network without normalization has.
TEST(WeightNorm, StartsAsTheNetworkWithoutNormalization) {
  const auto backend = ops::make_cpu_backend();
  ModelState plain(make_model(resnet("none")), {}, *backend), normalized(make_model(resnet("weight")), {}, *backend);
  const auto index = [](const ModelState& state, const std::string& name) {
    const auto& p = state.model().parameters;
    for (std::size_t i = 0; i < p.size(); ++i) {
      if (p[i].name == name) return static_cast<int>(i);
    }
    ADD_FAILURE() << "no parameter " << name;
    return 0;
  };
  plain.initialize(1);
  normalized.initialize(1);
  normalized.pack(0, 1);
  const int g = index(normalized, "layer1.0.conv1.weight_g"), v = index(normalized, "layer1.0.conv1.weight_v");
  const auto& p = normalized.model().parameters;
  EXPECT_EQ(p[g].dims, (std::vector<std::int64_t>{16, 1, 1, 1}));
  EXPECT_EQ(p[v].dims, (std::vector<std::int64_t>{16, 16, 3, 3}));

  // Fixup: 9 blocks of 2 convolutions; the first of a block starts at 9^(-1/2), the second at 0.
  const double he = std::sqrt(2.0 / (16 * 9));
  const auto deviation = [](std::span<const float> values) {
    double square = 0;
    for (const float w : values) square += std::pow(static_cast<double>(w), 2);
    return std::sqrt(square / static_cast<double>(values.size()));
  };
  for (ModelState* state : {&plain, &normalized}) {
    for (std::size_t l = 0; l < state->model().layers.size(); ++l) {
      const std::string& name = state->model().layers[l].name;
      const auto layer = static_cast<int>(l);
      if (name != "layer1.0.conv1" && name != "layer1.0.conv2") continue;
      EXPECT_NEAR(deviation(state->weights(layer)), name.back() == '1' ? he / 3 : 0, 0.05 * he / 3) << name;
    }
  }
  EXPECT_NEAR(deviation(normalized.values(normalized.parameter(v))), he, 0.05 * he);
  EXPECT_NE(deviation(normalized.values(normalized.parameter(index(normalized, "layer1.0.conv2.weight_v")))), 0);
}

}  // namespace
}  // namespace syncbn
