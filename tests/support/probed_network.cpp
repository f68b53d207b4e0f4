#include "support/probed_network.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace syncbn::test {

namespace {

std::vector<Values> inputs_of(const Network& network, const Model& model, std::int64_t n) {
  std::vector<Values> inputs(model.layers.size());
  for (int l = 1; l < static_cast<int>(model.layers.size()); ++l) {
    const Tensor& x = network.input(l);
    HostTensor copy(x.shape.with_n(n), x.type, x.layout);
    if (n > 0) std::copy_n(x.as<float>(), n * x.sample_stride(), copy.view().as<float>());
    inputs[l] = copy.get();
  }
  return inputs;
}

std::vector<float> copy_of(std::span<const float> values) {
  return {values.begin(), values.end()};
}

}  // namespace

Config::Probes only(const std::string& name, std::vector<std::string> layers) {
  Config::Probes options;
  options.names = {name};
  options.layers = std::move(layers);
  return options;
}

void expect_near(double found, double expected, double relative) {
  EXPECT_GT(std::abs(expected), 0);
  EXPECT_NEAR(found, expected, relative * std::abs(expected));
}

double Probed::value(const std::string& probe, const std::string& name, const std::string& quantity) const {
  for (const Measurement& row : rows) {
    if (row.probe != probe || row.name != name) continue;
    for (const auto& [key, value] : row.values) {
      if (key == quantity) return value;
    }
  }
  ADD_FAILURE() << "no " << quantity << " of " << probe << " at '" << name << "'";
  return std::numeric_limits<double>::quiet_NaN();
}

Probed run_probed_network(const ProbedRun& run, int threads) {
  WorldOptions options;
  options.workers = static_cast<int>(run.network.counts.size());
  options.threads = threads;
  World world = World::threads(options);
  return run_probed_network(world, run);
}

Probed run_probed_network(World& world, const ProbedRun& run) {
  const auto backend = ops::make_cpu_backend();
  const std::vector<int>& counts = run.network.counts;
  const int samples = std::accumulate(counts.begin(), counts.end(), 0);
  ModelState state = small_network_state(run.network, *backend);
  const auto size = static_cast<std::size_t>(state.flat_size());
  Probed result;
  result.workers.resize(static_cast<std::size_t>(world.local_workers()));
  result.old_values = copy_of(state.values());
  std::vector<float> summed;
  world.run([&](Worker& worker) {
    backend->prepare_thread();
    const int n = counts[worker.index()];
    const int first = std::accumulate(counts.begin(), counts.begin() + worker.index(), 0);
    const int groups = world.workers() / run.network.group;
    std::vector<float> gradient(size);
    const Communicator group = worker.group(run.network.group);
    Network network(state, *backend, group, groups, std::max(1, n), gradient);
    const auto probes = Probes::make({state, network, gradient, worker.duplicate(), group, groups, run.options}, {});
    const SmallBatch batch = small_batch(first, n);
    Pass pass;
    pass.n = n;
    pass.batch_samples = samples;
    pass.sample_ids = batch.ids;
    network.begin_update();
    network.set_images(batch.images.data(), n);
    network.forward(pass);
    network.start_loss(batch.labels, 0.1, 1.0 / samples);
    network.backward(pass, [&](int layer) { probes->gradient_ready(layer); });
    probes->batch_done({1, n, samples, pass, first});
    Seen& seen = result.workers[worker.local_index()];
    seen.before = inputs_of(network, state.model(), n);
    seen.gradient = gradient;

    std::vector<float> sum = gradient;
    worker.all().all_reduce(std::span<float>(sum).first(static_cast<std::size_t>(state.exchanged_size())), Reduce::sum,
                            {"gradient", 0});
    if (worker.local_index() == 0) {
      summed = sum;
      result.gradient.resize(size);
      state.finish_gradient(summed, summed, result.gradient, 0, 1);
    }
    worker.local_barrier();
    probes->gradient_summed(std::span(summed).first(static_cast<std::size_t>(state.exchanged_size())), result.gradient);
    worker.local_barrier();
    if (worker.local_index() == 0) {
      for (std::size_t p = 0; p < state.model().parameters.size(); ++p) {
        const FlatRange r = state.parameter(static_cast<int>(p));
        for (std::int64_t i = r.offset; i < r.offset + r.count; ++i) {
          state.values()[i] -= run.lr * result.gradient[i];
        }
      }
      state.pack(0, 1);
    }
    worker.local_barrier();
    std::vector<Measurement> rows = probes->measure();
    network.forward(pass);
    seen.after = inputs_of(network, state.model(), n);
    if (worker.index() == 0) result.rows = std::move(rows);
  });
  result.new_values = copy_of(state.values());
  for (Seen& seen : result.workers) {
    const std::vector<float> own = seen.gradient;
    state.finish_gradient(own, own, seen.gradient, 0, 1);
  }
  return result;
}

}  // namespace syncbn::test
