#include "support/small_network.hpp"

#include <algorithm>
#include <mutex>
#include <numeric>

#include "nn/loss.hpp"

namespace syncbn::test {

std::vector<float> drawn(std::uint32_t salt, std::size_t count) {
  std::vector<float> values;
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uint32_t h = i * 2654435761u + salt * 40503u + 12345u;
    h = (h ^ h >> 15) * 2246822519u;
    values.push_back(static_cast<float>((h ^ h >> 13) % 4096) / 1024 - 2);
  }
  return values;
}

ModelOptions small_network_options(const std::string& norm) {
  ModelOptions o;
  o.norm = norm;
  o.name = "layers";
  o.input = Shape{1, 2, 8, 8};
  o.classes = 5;
  const auto layer = [&](const std::string& type, const std::string& name) -> LayerConfig& {
    o.layers.emplace_back();
    o.layers.back().type = type;
    o.layers.back().name = name;
    return o.layers.back();
  };
  const auto conv = [&](const std::string& name, std::int64_t out, std::int64_t stride) {
    LayerConfig& l = layer("conv2d", name);
    l.out = out;
    l.kernel = 3;
    l.padding = 1;
    l.stride = stride;
    l.bias = false;
  };
  conv("conv1", 6, 1);
  layer("norm", "bn1");
  layer("relu", "relu1");
  conv("conv2", 6, 1);
  layer("norm", "bn2");
  layer("add", "add").from = "relu1";
  layer("relu", "relu2");
  LayerConfig& pool = layer("max_pool", "pool");
  pool.kernel = 2;
  pool.stride = 2;
  layer("flatten", "flatten");
  LayerConfig& hidden = layer("linear", "hidden");
  hidden.out = 12;
  if (norm != "instance") layer("norm", "bn3");  // one value per channel
  layer("sigmoid", "sigmoid");
  layer("linear", "fc").out = 5;
  return o;
}

SmallBatch small_batch(int first, int n) {
  SmallBatch batch;
  for (int i = first; i < first + n; ++i) {
    const std::vector<float> image = drawn(static_cast<std::uint32_t>(i), 2 * 8 * 8);
    batch.images.insert(batch.images.end(), image.begin(), image.end());
    batch.labels.push_back(i * 3 % 5);
    batch.ids.push_back(i);
  }
  return batch;
}

ModelState small_network_state(const NetworkRun& run, const ops::Backend& backend) {
  NormSettings norm;
  norm.whole_world = run.group == static_cast<int>(run.counts.size());
  norm.options.momentum = run.momentum;
  norm.momentum_reference_batch = run.momentum_reference_batch;
  if (run.norm == "renorm") norm.renorm = RenormOptions{1.2, 0.1};
  ModelState state(make_model(small_network_options(run.norm)), norm, backend);
  state.initialize(3);
  // Far from the batch's: r and d stand at their limits, are constants, and differences of the loss show no more.
  for (const NormState& s : norm.renorm ? state.norm_states() : std::vector<NormState>{}) {
    std::fill(state.values(s.mean).begin(), state.values(s.mean).end(), 3.0f);
    std::fill(state.values(s.var).begin(), state.values(s.var).end(), 25.0f);
  }
  if (run.change) run.change(state);
  state.pack(0, 1);
  return state;
}

NetworkResult run_small_network(const NetworkRun& run, int threads) {
  WorldOptions options;
  options.workers = static_cast<int>(run.counts.size());
  options.threads = threads;
  World world = World::threads(options);
  return run_small_network(world, run);
}

NetworkResult run_small_network(World& world, const NetworkRun& run) {
  const auto backend = ops::make_cpu_backend();
  const std::vector<int>& counts = run.counts;
  const int workers = world.workers(), group = run.group;
  const int samples = std::accumulate(counts.begin(), counts.end(), 0);
  ModelState state = small_network_state(run, *backend);
  NetworkResult result;
  result.gradient.resize(static_cast<std::size_t>(state.flat_size()));
  world.run([&](Worker& worker) {
    backend->prepare_thread();
    const int n = counts[worker.index()];
    const int first = std::accumulate(counts.begin(), counts.begin() + worker.index(), 0);
    std::vector<float> gradient(static_cast<std::size_t>(state.flat_size()));
    Network network(state, *backend, worker.group(group), workers / group, std::max(1, n), gradient);
    network.begin_update();
    const SmallBatch batch = small_batch(first, n);
    network.set_images(batch.images.data(), n);
    Pass pass;
    pass.n = n;
    pass.batch_samples = samples;
    pass.sample_ids = batch.ids;
    network.forward(pass);
    network.start_loss(batch.labels, 0.1, 1.0 / samples);
    network.backward(pass, [](int) {});
    LossResult loss = network.finish_loss();
    worker.all().all_reduce(std::span<double>(&loss.loss_sum, 1), Reduce::sum, {"loss", 0});
    const std::int64_t exchanged = state.exchanged_size();
    worker.all().all_reduce(std::span<float>(gradient).first(static_cast<std::size_t>(exchanged)), Reduce::sum,
                            {"gradient", 0});
    if (worker.local_index() == 0) {
      result.loss = loss.loss_sum / samples;
      result.gradient = gradient;
    }
  });
  const std::vector<float> summed = result.gradient;
  state.finish_gradient(summed, summed, result.gradient, 0, 1);
  state.update_statistics(result.gradient);
  state.count_batches(1);
  for (const NormState& s : state.norm_states()) {
    for (const FlatRange& r : {s.mean, s.var}) {
      result.statistics.insert(result.statistics.end(), state.values(r).begin(), state.values(r).end());
    }
  }
  return result;
}

}  // namespace syncbn::test
