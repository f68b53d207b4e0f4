// Networks of a few layers on a device against the CPU: that each layer reads the channels as the one before wrote
// them.

#include <gtest/gtest.h>

#include <cmath>

#include "nn/flat_buffer.hpp"
#include "ops/cuda/module.hpp"
#include "support/small_network.hpp"

namespace syncbn::test {
namespace {

constexpr std::int64_t kSamples = 3;

LayerConfig entry(const std::string& type, std::int64_t out = 0, std::int64_t kernel = 0) {
  LayerConfig l;
  l.type = type;
  l.out = out;
  l.kernel = kernel;
  l.padding = type == "conv2d" ? kernel / 2 : 0;
  return l;
}

LayerConfig named(const std::string& name, LayerConfig layer) {
  layer.name = name;
  return layer;
}
LayerConfig from(const std::string& name, LayerConfig layer) {
  layer.from = name;
  return layer;
}

/// For images of 3x8x6 and 5 classes.
ModelOptions options_of(const std::vector<LayerConfig>& layers) {
  ModelOptions o;
  o.name = "layers";
  o.input = Shape{1, 3, 8, 6};
  o.classes = 5;
  o.layers = layers;
  o.layers.push_back(entry("flatten"));
  o.layers.push_back(entry("linear", o.classes));
  return o;
}

Model model_of(const std::vector<LayerConfig>& layers) {
  return make_model(options_of(layers));
}

/// One forward and backward of one worker, then one without samples: the loss, and the gradient of every parameter.
std::vector<float> run(const ops::Backend& backend, const Model& model, bool with_empty) {
  ModelState state(model, {}, backend);
  state.initialize(3);
  state.send();
  const FlatBuffer summed(backend, state.flat_size()), gradient(backend, state.flat_size());
  std::vector<float> result(1);
  WorldOptions one;
  one.workers = one.threads = 1;
  World::threads(one).run([&](Worker& worker) {
    backend.prepare_thread();
    Network network(state, backend, worker.group(1), 1, kSamples, summed.kernels());
    network.begin_update();
    const std::vector<int> labels = {1, 4, 0};
    const std::vector<std::int64_t> ids = {0, 1, 2};
    const std::int64_t image = state.model().layers.front().output.elements();
    network.set_images(drawn(7, kSamples * image).data(), kSamples);
    Pass pass;
    pass.n = pass.batch_samples = kSamples;
    pass.sample_ids = ids;
    network.forward(pass);
    network.start_loss(labels, 0.1, 1.0 / kSamples);
    network.backward(pass, [](int) {});
    result[0] = static_cast<float>(network.finish_loss().loss_sum);
    if (with_empty) {  // a batch that leaves this worker nothing adds nothing to its gradient
      pass.n = 0;
      pass.batch_samples = kSamples;
      pass.sample_ids = {};
      network.set_images(static_cast<const float*>(nullptr), 0);
      network.forward(pass);
      network.start_loss({}, 0.1, 1.0 / kSamples);
      network.backward(pass, [](int) {});
      network.finish_loss();
    }
    if (const ops::Device* device = network.backend().device()) device->finish();
  });
  state.finish_gradient(summed.kernels(), summed.kernels(), gradient.kernels(), 0, 1);
  gradient.fetch();
  for (std::size_t p = 0; p < state.model().parameters.size(); ++p) {
    const FlatRange r = state.parameter(static_cast<int>(p));
    const auto part = gradient.host().subspan(static_cast<std::size_t>(r.offset), static_cast<std::size_t>(r.count));
    result.insert(result.end(), part.begin(), part.end());
  }
  return result;
}

void expect_agreement(const Model& model, DataType type, double tolerance) {
  const std::unique_ptr<ops::Backend> cpu = ops::make_cpu_backend(), cuda(syncbn_cuda_backend(0, {type, false}));
  const std::vector<float> want = run(*cpu, model, false), got = run(*cuda, model, true);
  ASSERT_EQ(got.size(), want.size());
  double differences = 0, squares = 0;
  for (std::size_t k = 0; k < got.size(); ++k) {
    differences += std::pow(got[k] - want[k], 2);
    squares += std::pow(want[k], 2);
  }
  EXPECT_NEAR(got[0], want[0], tolerance * want[0]) << "loss";
  EXPECT_LE(std::sqrt(differences / squares), tolerance);
}

// Few channels, as those of images are, are the ones that a layout could be confused for.
TEST(CudaNetwork, LayersOfFewChannelsAgreeWithTheCpu) {
  const std::vector<std::vector<LayerConfig>> networks = {
      {entry("conv2d", 3, 3), entry("norm")},
      {entry("conv2d", 2, 3)},
      {entry("conv2d", 4, 3), entry("avg_pool", 0, 2), entry("conv2d", 2, 1), entry("tanh")},
      {entry("norm"), entry("conv2d", 3, 3)},
      {entry("max_pool", 0, 2), entry("norm"), entry("conv2d", 8, 3), entry("norm"), entry("relu")},
      {entry("dropout"), entry("norm"), entry("sigmoid"), entry("conv2d", 5, 3)},
      {entry("conv2d", 4, 3), named("a", entry("relu")), entry("norm"), from("a", entry("add")), entry("relu")},
      {entry("norm")}};
  for (const auto& [type, tolerance] :
       {std::pair(DataType::f32, 1e-5), std::pair(DataType::f16, 4e-3), std::pair(DataType::bf16, 4e-2)}) {
    for (std::size_t i = 0; i < networks.size(); ++i) {
      SCOPED_TRACE(std::string(name_of(type)) + ", network " + std::to_string(i));
      expect_agreement(model_of(networks[i]), type, tolerance);
    }
  }
}

// With ReLUs in the same sweep, additions before some of them, and small maps.
TEST(CudaNetwork, EveryNormalizationOfSamplesAgreesWithTheCpu) {
  for (const char* norm : {"group", "layer", "instance"}) {
    ModelOptions o;
    o.name = "resnet8";
    o.input = Shape{1, 3, 8, 6};
    o.classes = 5;
    o.norm = norm;
    o.norm_groups = 4;
    for (const auto& [type, tolerance] :
         {std::pair(DataType::f32, 2e-5), std::pair(DataType::f16, 2e-2), std::pair(DataType::bf16, 2e-1)}) {
      SCOPED_TRACE(std::string(norm) + ", " + name_of(type));
      expect_agreement(make_model(o), type, tolerance);
    }
  }
  expect_agreement(model_of({entry("conv2d", 5, 3), entry("norm"), entry("relu")}), DataType::f32, 1e-5);
}

TEST(CudaNetwork, WhiteningAgreesWithTheCpu) {
  for (const auto& [type, tolerance] :
       {std::pair(DataType::f32, 1e-4), std::pair(DataType::f16, 4e-2), std::pair(DataType::bf16, 3e-1)}) {
    ModelOptions o = options_of({entry("conv2d", 6, 3), entry("norm"), entry("relu"), entry("norm")});
    o.norm = "whitening";
    o.norm_group_channels = 3;
    SCOPED_TRACE(name_of(type));
    expect_agreement(make_model(o), type, tolerance);
  }
}

}  // namespace
}  // namespace syncbn::test
