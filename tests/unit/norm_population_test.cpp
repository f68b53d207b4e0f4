// Evaluation by the statistics of many training images ("precise"), and by those of the evaluated batch.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "support/small_network.hpp"
#include "support/worlds.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::test {
namespace {

constexpr std::int64_t kChannels = 4, kSide = 5, kPixels = kSide * kSide, kClasses = 5;
constexpr double kEps = 1e-3;

/// Samples per batch and worker.
using Batches = std::vector<std::vector<int>>;

struct Plan {
  Batches batches;
  int group = 1;
  std::string norm = "batch";
  int threads = 2;
  int workers() const { return static_cast<int>(batches.front().size()); }
};

/// Two normalizations, the first of which sees the images themselves.
ModelOptions two_norms(const std::string& norm) {
  ModelOptions o;
  o.name = "layers";
  o.norm = norm;
  o.norm_group_channels = 2;
  o.input = Shape{1, kChannels, kSide, kSide};
  o.classes = kClasses;
  const auto layer = [&](const std::string& type, const std::string& name) {
    o.layers.emplace_back();
    o.layers.back().type = type;
    o.layers.back().name = name;
  };
  layer("norm", "norm1");
  layer("relu", "relu");
  layer("norm", "norm2");
  layer("flatten", "flatten");
  layer("linear", "fc");
  o.layers.back().out = kClasses;
  return o;
}

ModelState make_state(const Plan& run, const ops::Backend& backend) {
  NormSettings norm;
  norm.whole_world = run.group == run.workers();
  norm.options.eps = kEps;
  if (run.norm == "renorm") norm.renorm = RenormOptions{};
  ModelState state(make_model(two_norms(run.norm)), norm, backend);
  state.initialize(3);
  state.pack(0, 1);
  return state;
}

/// [kChannels, kPixels]; neighbouring channels are correlated, and images differ in contrast.
std::vector<float> image(std::int64_t id) {
  Random random(11, Purpose::test, static_cast<std::uint64_t>(id));
  const double contrast = 0.5 + static_cast<double>(random.uniform());
  std::vector<float> values;
  for (std::size_t i = 0; i < kChannels * kPixels; ++i) {
    const double before = i < kPixels ? 0 : static_cast<double>(values[i - kPixels]);
    values.push_back(static_cast<float>(contrast * random.normal() + 0.5 * before + 3));
  }
  return values;
}

/// Samples of all workers before this batch.
std::int64_t samples_before(const Batches& batches, std::size_t batch) {
  std::int64_t samples = 0;
  for (std::size_t b = 0; b < batch; ++b) samples += std::accumulate(batches[b].begin(), batches[b].end(), 0);
  return samples;
}

/// The samples of a worker in a batch: they are numbered batch by batch, in each worker by worker.
std::pair<std::int64_t, int> samples_of(const Batches& batches, std::size_t batch, int worker) {
  const std::vector<int>& counts = batches[batch];
  const int before = std::accumulate(counts.begin(), counts.begin() + worker, 0);
  return {samples_before(batches, batch) + before, counts[worker]};
}

struct Gathered {
  std::map<std::string, std::vector<float>> mean, moments;   // by layer
  double precise = 0, running = 0, batch = 0, training = 0;  // losses of the last batch
  bool operator==(const Gathered&) const = default;
};

int layer_named(const ModelState& state, const std::string& name) {
  const auto& layers = state.model().layers;
  const auto at = std::find_if(layers.begin(), layers.end(), [&](const LayerSpec& l) { return l.name == name; });
  return static_cast<int>(at - layers.begin());
}

/// Gathers over all batches, then evaluates the last one by each kind of statistics. The running ones are replaced by
/// the population's before.
Gathered gather(World& world, const Plan& run) {
  const auto backend = ops::make_cpu_backend();
  ModelState state = make_state(run, *backend);
  const std::vector<float> before(state.values().begin(), state.values().end());
  Gathered result;
  world.run([&](Worker& worker) {
    backend->prepare_thread();
    std::vector<float> gradient(static_cast<std::size_t>(state.flat_size()));
    Network network(state, *backend, worker.group(run.group), run.workers() / run.group, 8, gradient);
    std::vector<int> labels;
    const auto forward = [&](std::size_t batch, Pass pass) {
      const auto [first, n] = samples_of(run.batches, batch, worker.index());
      std::vector<float> images;
      labels.clear();
      for (std::int64_t id = first; id < first + n; ++id) {
        const std::vector<float> one = image(id);
        images.insert(images.end(), one.begin(), one.end());
        labels.push_back(static_cast<int>(id % kClasses));
      }
      network.set_images(images.data(), n);
      pass.n = n;
      network.forward(pass);
    };
    const auto loss = [&] {
      network.start_loss(labels, 0, 0);
      double sum = network.finish_loss().loss_sum;
      worker.all().all_reduce(std::span<double>(&sum, 1), Reduce::sum, {"loss", 0});
      return sum;
    };
    const auto evaluate = [&](Mode mode, Statistics statistics) {
      Pass pass;
      pass.mode = mode;
      pass.statistics = statistics;
      forward(run.batches.size() - 1, pass);
      return loss();
    };
    network.begin_population();
    for (std::size_t b = 0; b < run.batches.size(); ++b) {
      Pass pass;
      pass.mode = Mode::eval;
      pass.statistics = Statistics::batch;
      pass.population = true;
      forward(b, pass);
    }
    network.finish_population(worker.all(), 0);
    Gathered mine;
    for (const char* name : {"norm1", "norm2"}) {
      const PopulationStatistics& p = network.population(layer_named(state, name));
      EXPECT_EQ(p.count(), static_cast<double>(samples_before(run.batches, run.batches.size()) * kPixels));
      mine.mean[name].assign(p.mean().begin(), p.mean().end());
      mine.moments[name].assign(p.moments().begin(), p.moments().end());
    }
    mine.precise = evaluate(Mode::eval, Statistics::precise);
    mine.batch = evaluate(Mode::eval, Statistics::batch);
    mine.training = evaluate(Mode::train, Statistics::running);
    if (worker.local_index() == 0) {
      EXPECT_EQ(before, std::vector<float>(state.values().begin(), state.values().end())) << "training must not see it";
      for (const NormState& s : state.norm_states()) {
        std::copy(mine.mean[s.name].begin(), mine.mean[s.name].end(), state.values(s.mean).begin());
        std::copy(mine.moments[s.name].begin(), mine.moments[s.name].end(), state.values(s.var).begin());
      }
      result = mine;
    }
    worker.all().barrier({"changed", 0});
    const double running = evaluate(Mode::eval, Statistics::running);
    if (worker.local_index() == 0) result.running = running;
    worker.local_barrier();
    mine.running = running;
    EXPECT_EQ(mine, result) << "the same on all workers";
  });
  return result;
}

Gathered gather(const Plan& run) {
  WorldOptions options;
  options.workers = run.workers();
  options.threads = run.threads;
  World world = World::threads(options);
  return gather(world, run);
}

/// Values in f64, [channel][value].
using Channels = std::vector<std::vector<double>>;

Channels images_of(const Batches& batches, std::size_t batch, int first_worker, int workers) {
  Channels x(kChannels);
  for (int w = first_worker; w < first_worker + workers; ++w) {
    const auto [first, n] = samples_of(batches, batch, w);
    for (std::int64_t id = first; id < first + n; ++id) {
      const std::vector<float> values = image(id);
      for (std::size_t i = 0; i < values.size(); ++i) x[i / kPixels].push_back(static_cast<double>(values[i]));
    }
  }
  return x;
}

double mean_of(const std::vector<double>& x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}
double covariance_of(const std::vector<double>& x, const std::vector<double>& y) {
  const double mx = mean_of(x), my = mean_of(y);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - mx) * (y[i] - my) / static_cast<double>(x.size());
  return sum;
}
void append(Channels& all, const Channels& x) {
  for (std::size_t c = 0; c < kChannels; ++c) all[c].insert(all[c].end(), x[c].begin(), x[c].end());
}

/// What the second layer sees: every group normalizes its share of a batch by itself, then ReLU.
Channels inputs_of_second(const Plan& run) {
  Channels all(kChannels);
  for (std::size_t b = 0; b < run.batches.size(); ++b) {
    for (int first = 0; first < run.workers(); first += run.group) {
      Channels x = images_of(run.batches, b, first, run.group);
      if (x[0].empty()) continue;
      for (std::vector<double>& channel : x) {
        const double mean = mean_of(channel), std = std::sqrt(covariance_of(channel, channel) + kEps);
        for (double& v : channel) v = std::max(0.0, (v - mean) / std);
      }
      append(all, x);
    }
  }
  return all;
}

void expect_population(const Gathered& got, const std::string& layer, const Channels& x, std::size_t width) {
  for (std::size_t c = 0; c < kChannels; ++c) {
    const double mean = mean_of(x[c]), std = std::sqrt(covariance_of(x[c], x[c]));
    EXPECT_NEAR(got.mean.at(layer)[c], mean, 1e-6 * std + 1e-7 * std::abs(mean)) << layer;
    for (std::size_t j = 0; j < width; ++j) {
      const std::size_t other = c - c % width + j;
      const double scale = std * std::sqrt(covariance_of(x[other], x[other]));
      EXPECT_NEAR(got.moments.at(layer)[c * width + j], covariance_of(x[c], x[other]), 1e-6 * scale) << layer;
    }
  }
}

/// Uneven batches, the last of one sample only; empty workers, and a whole group of them.
std::vector<Batches> spreads() {
  return {{{5}, {8}, {3}},
          {{4, 4}, {4, 4}, {1, 0}},
          {{3, 0, 2}, {3, 3, 3}, {0, 0, 1}},
          {{2, 3, 0, 0}, {2, 2, 2, 2}, {1, 1, 1, 0}},
          {{2, 1, 0, 3, 0, 0, 1, 2}, {3, 3, 3, 3, 2, 2, 2, 2}}};
}

std::vector<Plan> all_runs(const std::string& norm) {
  std::vector<Plan> runs;
  for (const Batches& batches : spreads()) {
    const int workers = static_cast<int>(batches.front().size());
    for (int group = 1; group <= workers; ++group) {
      if (workers % group == 0) runs.push_back({batches, group, norm});
    }
  }
  return runs;
}

TEST(Population, IsThatOfAllValuesInF64) {
  for (const std::string norm : {"batch", "renorm", "whitening"}) {
    for (const Plan& run : all_runs(norm)) {
      SCOPED_TRACE(norm + ", " + std::to_string(run.workers()) + " workers in groups of " + std::to_string(run.group));
      const Gathered got = gather(run);
      Channels images(kChannels);
      for (std::size_t b = 0; b < run.batches.size(); ++b) append(images, images_of(run.batches, b, 0, run.workers()));
      expect_population(got, "norm1", images, norm == "whitening" ? 2 : 1);
      if (norm != "whitening") expect_population(got, "norm2", inputs_of_second(run), 1);
    }
  }
}

// However the samples are spread over batches and workers, the first layer's population is the same.
TEST(Population, DoesNotDependOnHowImagesWithoutANormBeforeAreSpread) {
  const Gathered one = gather({{{8}, {7}}}), many = gather({{{1, 0, 2}, {4, 1, 3}, {2, 2, 0}}, 3});
  for (std::size_t c = 0; c < kChannels; ++c) {
    EXPECT_NEAR(one.mean.at("norm1")[c], many.mean.at("norm1")[c], 1e-6);
    EXPECT_NEAR(one.moments.at("norm1")[c], many.moments.at("norm1")[c], 1e-6);
  }
}

TEST(Population, EvaluationUsesIt) {
  for (const std::string norm : {"batch", "renorm", "whitening"}) {
    for (const Plan& run : all_runs(norm)) {
      const Gathered got = gather(run);
      EXPECT_EQ(got.precise, got.running) << "the same numbers in place of the moving averages";
      EXPECT_NE(got.precise, got.batch);
    }
  }
}

// By the statistics of the batch an evaluation is the forward pass of training, in the same groups.
TEST(Population, EvaluationByTheBatchIsTrainingsForward) {
  for (const std::string norm : {"batch", "whitening"}) {
    for (const Plan& run : all_runs(norm)) {
      const Gathered got = gather(run);
      EXPECT_EQ(got.batch, got.training);
    }
  }
}

TEST(Population, BitsDoNotDependOnRanksAndThreads) {
  for (const std::string norm : {"batch", "whitening"}) {
    for (Plan run : all_runs(norm)) {
      if (run.workers() < job_ranks()) continue;
      run.threads = 1;
      const Gathered one = gather(run);
      for (const int threads : {1, 3}) {
        WorldOptions options;
        options.workers = run.workers();
        options.threads = threads;
        World world = make_world(options);
        EXPECT_EQ(gather(world, run), one) << run.workers() << " workers, groups of " << run.group;
      }
    }
  }
}

}  // namespace
}  // namespace syncbn::test
