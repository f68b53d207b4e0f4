// Normalizations against PyTorch's. tests/support/pytorch_values.py makes the values, from the same problems.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nn/normalization/weight_norm.hpp"
#include "ops/backend.hpp"
#include "support/host_tensor.hpp"
#include "support/small_network.hpp"
#include "support/worlds.hpp"
#include "syncbn/nn/batch_norm.hpp"

namespace syncbn::test {
namespace {

constexpr double kForward = 1e-6, kBackward = 1e-5;

nlohmann::json pytorch() {
  std::ifstream in(SYNCBN_PYTORCH_VALUES);
  return nlohmann::json::parse(in);
}

void expect_near(const Values& got, const Values& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i], want[i], tolerance * std::max(1.0, std::abs(want[i]))) << what << " " << i;
  }
}

template <class T>
Values values_of(const T& numbers) {
  return {numbers.begin(), numbers.end()};
}

/// Samples [first, first + n) of drawn(salt, [4, 6, 3, 2]).
Values samples(std::uint32_t salt, std::int64_t first = 0, std::int64_t n = 4) {
  const std::vector<float> all = drawn(salt, 4 * 36);
  return {all.begin() + first * 36, all.begin() + (first + n) * 36};
}

TEST(PyTorch, GroupLayerAndInstanceNorm) {
  const auto backend = ops::make_cpu_backend();
  const std::map<std::string, int> groups{{"group", 3}, {"layer", 1}, {"instance", 6}};
  for (const auto& [name, count] : groups) {
    const nlohmann::json want = pytorch().at("layers").at(name);
    for (const Layout layout : {Layout::channels_first, Layout::channels_last, Layout::blocked8}) {
      const Shape shape{4, 6, 3, 2};
      const HostTensor x(shape, DataType::f32, layout, samples(1)), dy(shape, DataType::f32, layout, samples(2));
      const HostTensor y(shape, DataType::f32, layout), dx(shape, DataType::f32, layout);
      const std::vector<float> gamma = drawn(3, 6), beta = drawn(4, 6);
      const ops::Affine affine{gamma.data(), beta.data()};
      std::vector<float> d_gamma(6), d_beta(6);
      const auto norm = backend->group_normalization(6, count, 1e-5, 4);
      norm->forward(x.view(), {}, y.view(), {0, 4}, affine, ops::FusedRelu::none, nullptr);
      norm->backward(x.view(), dy.view(), dx.view(), {}, {0, 4}, affine, ops::FusedRelu::none, nullptr, false, false);
      norm->add_parameter_gradients(4, d_gamma.data(), d_beta.data());
      expect_near(y.get(), want.at("y"), kForward, name + " y");
      expect_near(dx.get(), want.at("dx"), kBackward, name + " dx");
      expect_near(values_of(d_gamma), want.at("d_gamma"), kBackward, name + " d_gamma");
      expect_near(values_of(d_beta), want.at("d_beta"), kBackward, name + " d_beta");
    }
  }
}

// The four samples of a batch, spread over workers that may have none.
TEST(PyTorch, BatchNorm) {
  const nlohmann::json want = pytorch().at("layers").at("batch");
  for (const std::vector<int>& counts : {std::vector<int>{4}, {1, 3}, {2, 0, 2}, {1, 0, 0, 3}}) {
    const int workers = static_cast<int>(counts.size());
    if (workers < job_ranks()) continue;
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      std::int64_t first = 0;
      for (int w = 0; w < worker.index(); ++w) first += counts[w];
      const std::int64_t n = counts[worker.index()];
      const Shape shape{n, 6, 3, 2};
      const auto tensor = [&](const Values& values = {}) {
        return values.empty() ? HostTensor(shape, DataType::f32, Layout::channels_first)
                              : HostTensor(shape, DataType::f32, Layout::channels_first, values);
      };
      const auto share = [&](const char* key) {
        const Values all = want.at(key);
        return Values(all.begin() + first * 36, all.begin() + (first + n) * 36);
      };
      const HostTensor x = tensor(samples(1, first, n)), dy = tensor(samples(2, first, n)), y = tensor(), dx = tensor();
      const auto context = BatchNorm::make_context();
      BatchNorm layer("bn", 6, {.momentum = 0.3}, worker.all()), mean("mean", 6, {.cumulative = true}, worker.all());
      std::ranges::copy(drawn(3, 6), layer.weight().begin());
      std::ranges::copy(drawn(4, 6), layer.bias().begin());
      layer.forward(Mode::train, x.view(), y.view(), *context);
      layer.backward(x.view(), dy.view(), *context, {.dx = &dx.view()});
      expect_near(y.get(), share("y"), kForward, "y");
      expect_near(dx.get(), share("dx"), kBackward, "dx");
      expect_near(values_of(layer.weight_grad()), want.at("d_gamma"), kBackward, "d_gamma");
      expect_near(values_of(layer.bias_grad()), want.at("d_beta"), kBackward, "d_beta");

      mean.forward(Mode::train, x.view(), y.view(), *context);
      for (const std::uint32_t salt : {5u, 6u}) {
        const HostTensor next = tensor(samples(salt, first, n));
        layer.forward(Mode::train, next.view(), y.view(), *context);
        mean.forward(Mode::train, next.view(), y.view(), *context);
      }
      std::ranges::fill(layer.weight(), 1.0f);
      std::ranges::fill(layer.bias(), 0.0f);
      for (const auto& [name, norm] : {std::pair{"momentum", &layer}, std::pair{"cumulative", &mean}}) {
        const std::string key = name;
        expect_near(values_of(norm->running_mean()), want.at(key + "_mean"), kForward, key);
        expect_near(values_of(norm->running_var()), want.at(key + "_var"), kForward, key);
        norm->forward(Mode::eval, x.view(), y.view(), *context);
        expect_near(y.get(), share((key + "_eval").c_str()), kForward, key);
      }
    });
  }
}

TEST(PyTorch, WeightNorm) {
  const nlohmann::json want = pytorch().at("layers").at("weight");
  const std::vector<float> v = drawn(1, 24), g = drawn(3, 3);
  std::vector<float> w(24), d_v = drawn(2, 24), d_g(3);
  weight_norm(g, v, w);
  weight_norm_gradient(g, v, d_v, d_g);
  expect_near(values_of(w), want.at("w"), kForward, "w");
  expect_near(values_of(d_v), want.at("d_v"), kBackward, "d_v");
  expect_near(values_of(d_g), want.at("d_g"), kBackward, "d_g");
}

/// The weights that the script gives its network.
void set_parameters(ModelState& state) {
  const std::vector<std::string> layers{"conv1", "conv2", "hidden", "fc"}, norms{"bn1", "bn2", "bn3"};
  for (std::size_t i = 0; i < state.model().parameters.size(); ++i) {
    const ParameterSpec& p = state.model().parameters[i];
    const std::string layer = p.name.substr(0, p.name.find('.')), what = p.name.substr(p.name.find('.') + 1);
    const auto place = [&](const std::vector<std::string>& all) {
      return static_cast<std::uint32_t>(std::find(all.begin(), all.end(), layer) - all.begin());
    };
    const bool is_norm = place(norms) < norms.size(), is_weight = what == "weight" || what == "weight_v";
    const std::uint32_t salt = is_norm ? 130 + place(norms) + (is_weight ? 0 : 10)
                                       : 100 + place(layers) +
                                             (is_weight        ? 0
                                              : what == "bias" ? 20
                                                               : 10);
    const float shift = what == "weight_g" || (is_norm && is_weight) ? 1 : 0;
    const std::span<float> out = state.values(state.parameter(static_cast<int>(i)));
    const std::vector<float> values = drawn(salt, out.size());
    for (std::size_t k = 0; k < out.size(); ++k) out[k] = 0.25f * values[k] + shift;
  }
}

// A whole network with each of them: what the configuration's word stands for, and where its gradients go.
TEST(PyTorch, Networks) {
  const nlohmann::json all = pytorch().at("networks");
  const auto backend = ops::make_cpu_backend();
  for (const auto& [norm, want] : all.items()) {
    for (const std::vector<int>& counts : {std::vector<int>{12}, {5, 4, 3}, {0, 7, 1, 4}}) {
      const int workers = static_cast<int>(counts.size());
      if (workers < job_ranks()) continue;
      SCOPED_TRACE(norm + ", " + std::to_string(workers) + " workers");
      const NetworkRun run{
          .counts = counts, .group = shares_statistics(norm) ? workers : 1, .norm = norm, .change = set_parameters};
      World world = make_world(workers);
      const NetworkResult got = run_small_network(world, run);
      expect_near({got.loss}, want.at("loss"), kForward, "loss");
      ModelState layout = small_network_state(run, *backend);
      for (std::size_t i = 0; i < layout.model().parameters.size(); ++i) {
        const FlatRange range = layout.parameter(static_cast<int>(i));
        Values gradient;
        for (std::int64_t k = 0; k < range.count; k += 1 + range.count / 24) {
          gradient.push_back(static_cast<double>(got.gradient[range.offset + k]));
        }
        const std::string& name = layout.model().parameters[i].name;
        expect_near(gradient, want.at("gradients").at(name), kBackward, name);
      }
      EXPECT_EQ(layout.model().parameters.size(), want.at("gradients").size());
      if (norm == "batch") expect_near(values_of(got.statistics), want.at("statistics"), kForward, "statistics");
    }
  }
}

}  // namespace
}  // namespace syncbn::test
