#include <algorithm>
#include <chrono>
#include <cmath>

#include "nn/network.hpp"
#include "train/compute.hpp"
#include "train/device_optimizer.hpp"
#include "train/experiment.hpp"
#include "train/explain/cost_model.hpp"
#include "train/storage/state_io.hpp"

namespace syncbn {
namespace {

constexpr int kRounds = 15;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Median duration of some calls, the first not counted.
template <class Call>
double median_seconds(Call call) {
  std::vector<double> seconds;
  for (int i = 0; i <= kRounds; ++i) {
    const double begin = now();
    call();
    if (i > 0) seconds.push_back(now() - begin);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
  return seconds[kRounds / 2];
}

/// Messages between the ranks: the times of a small and of a large one, and what is added when ranks compute before.
void measure_messages(const Communicator& ranks, double computed, MachineFigures& f) {
  constexpr std::size_t kSmall = 64, kLarge = 1 << 18;
  std::vector<double> values(kLarge);
  std::int64_t step = 0;
  const auto reduce = [&](std::size_t count) {
    ranks.all_reduce(std::span(values).first(count), Reduce::sum, {"measured message", step++});
  };
  const double others = ranks.size() - 1;
  const double small = median_seconds([&] { reduce(kSmall); });
  const double large = median_seconds([&] { reduce(kLarge); });
  f.latency = std::max(1e-7, small - (others - 1) * f.per_message);
  f.bandwidth =
      2 * others / ranks.size() * static_cast<double>(kLarge * sizeof(double)) / std::max(1e-9, large - 2 * small);
  const double late = median_seconds([&] {
    for (const double end = now() + computed; now() < end;) {
    }
    reduce(kSmall);
  });
  f.skew = std::max(0.0, late - computed - small) / std::sqrt(2 * std::log(ranks.size()));
}

}  // namespace

MachineFigures measure_machine(World& world, const Config& config, MachineFigures f) {
  const auto backend = make_backend(world, config);
  const DataShape data = data_shape(config.data);
  ModelState state(make_model(model_options(config, data.image, data.classes)), {}, *backend);
  state.initialize(config.seed);
  state.send();
  const int threads = world.local_workers();
  const auto ranks_here =
      static_cast<int>(std::count(world.nodes().begin(), world.nodes().end(), world.nodes()[world.rank()]));
  const std::int64_t n = config.batch_per_worker;
  const std::vector<int> labels(static_cast<std::size_t>(n));
  std::vector<ops::Memory> gradients;
  for (int w = 0; w < threads; ++w)
    gradients.push_back(backend->allocate(static_cast<std::size_t>(state.flat_size()) * sizeof(float)));
  const Explanation e = explain(config, 1);
  world.run([&](Worker& worker) {
    backend->prepare_thread();
    const std::span<float> gradient(gradients[worker.local_index()].as<float>(),
                                    static_cast<std::size_t>(state.flat_size()));
    Network network(state, *backend, Communicator(), world.workers(), n, gradient);
    Pass pass;
    pass.n = n;
    const std::vector<std::int64_t> ids(static_cast<std::size_t>(n));
    pass.sample_ids = ids;
    const std::vector<float> images(static_cast<std::size_t>(n * data.image.elements()), 0.5f);
    network.set_images(images.data(), n);
    worker.all().barrier({"measure", 0});
    const double step = median_seconds([&] {
      network.begin_update();
      network.forward(pass);
      network.start_loss(labels, 0, 1);
      network.backward(pass, [](int) {});
      network.finish_loss();
      if (backend->device()) network.backend().device()->finish();
    });
    // One worker of each rank speaks with the others.
    worker.all().barrier({"measured", 0});
    MachineFigures own = f;
    own.sample = step / static_cast<double>(n);
    own.threads = threads;
    if (!backend->device()) own.ranks_per_machine = ranks_here;
    if (world.ranks() > 1 && threads == 1) {
      const double points = static_cast<double>(e.statistics_forward.messages + e.statistics_backward.messages + 1);
      measure_messages(worker.all(), step / points, own);
    }
    if (worker.local_index() == 0) f = own;
  });
  const auto optimizer = make_optimizer(config.optimizer, parameter_slots(state), state.flat_size(), *backend);
  const std::span<const float> gradient(gradients.front().as<float>(), static_cast<std::size_t>(state.flat_size()));
  f.update = median_seconds([&] {
    optimizer->update(state.kernels(), gradient, 1e-6, 1, 0, 1);
    optimizer->count_update();
    state.pack(0, 1);
    if (backend->device()) backend->device()->finish();
  });
  // All ranks predict with the figures of the slowest.
  f.sample = world.max_over_ranks(f.sample);
  f.update = world.max_over_ranks(f.update);
  f.latency = world.max_over_ranks(f.latency);
  f.bandwidth = 1 / world.max_over_ranks(1 / f.bandwidth);
  f.skew = world.max_over_ranks(f.skew);
  return f;
}

}  // namespace syncbn
