// Every probe against plain fp64 computations, with uneven and empty workers; and the same bits on any ranks and
// threads.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/probed_network.hpp"
#include "support/worlds.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::test {
namespace {

int layer_named(const Model& model, const std::string& name) {
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    if (model.layers[l].name == name) return static_cast<int>(l);
  }
  ADD_FAILURE() << name;
  return 0;
}

Model model_of(const ProbedRun& run) {
  return make_model(small_network_options(run.network.norm));
}

/// Values of one channel of one layer's input over some workers' samples.
Values channel_of(const std::vector<Seen>& workers, bool after, const Model& model, int layer, std::int64_t c) {
  const Shape& shape = model.layers[model.layers[layer].input].output;
  Values values;
  for (const Seen& w : workers) {
    const Values& all = (after ? w.after : w.before)[layer];
    const std::int64_t sample = shape.c() * shape.spatial();
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(all.size()); ++i) {
      if (i % sample / shape.spatial() == c) values.push_back(all[i]);
    }
  }
  return values;
}

double mean_of(const Values& x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}
double var_of(const Values& x) {
  const double mean = mean_of(x);
  double sum = 0;
  for (const double v : x) sum += (v - mean) * (v - mean);
  return sum / static_cast<double>(x.size());
}

TEST(Probe, BatchNoiseIsTheSpreadOfTheGroupsAroundTheirUnion) {
  for (const std::string norm : {"batch", "renorm", "whitening"}) {
    for (const auto& [counts, group] : std::vector<std::pair<std::vector<int>, int>>{
             {{6, 6}, 1}, {{5, 4, 3}, 1}, {{0, 7, 1, 4}, 2}, {{0, 0, 3, 4, 2, 0}, 2}}) {
      // One value per channel in a group is an error: bn3 sees single samples.
      const ProbedRun run{{.counts = counts, .group = group, .norm = norm}, only("batch_noise")};
      const Probed probed = run_probed_network(run);
      const Model model = model_of(run);
      for (const std::string name : {"bn1", "bn2", "bn3"}) {
        const int layer = layer_named(model, name);
        const std::int64_t channels = model.layers[layer].output.c();
        double mean_noise = 0, var_noise = 0;
        for (std::int64_t c = 0; c < channels; ++c) {
          const Values all = channel_of(probed.workers, false, model, layer, c);
          const double mean = mean_of(all), var = var_of(all);
          for (std::size_t w = 0; w < counts.size(); w += static_cast<std::size_t>(group)) {
            const std::vector<Seen> members(probed.workers.begin() + static_cast<std::ptrdiff_t>(w),
                                            probed.workers.begin() + static_cast<std::ptrdiff_t>(w) + group);
            const Values own = channel_of(members, false, model, layer, c);
            if (own.empty()) continue;
            const double share = static_cast<double>(own.size()) / static_cast<double>(all.size());
            mean_noise += share * std::pow(mean_of(own) - mean, 2) / var;
            var_noise += share * std::pow(var_of(own) - var, 2) / (var * var);
          }
        }
        expect_near(probed.value("batch_noise", name, "mean"), mean_noise / static_cast<double>(channels), 1e-5);
        expect_near(probed.value("batch_noise", name, "var"), var_noise / static_cast<double>(channels), 1e-5);
      }
    }
  }
}

double percentile_of(Values values, double share) {
  std::sort(values.begin(), values.end());
  const double at = share * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(std::floor(at)), high = static_cast<std::size_t>(std::ceil(at));
  return values[low] + (at - std::floor(at)) * (values[high] - values[low]);
}

TEST(Probe, ActivationsArePercentilesAndSaturation) {
  for (const std::vector<int>& counts : kSpreads) {
    // As many units as these layers have inputs, and so few that all 12 samples are looked at.
    ProbedRun run{{.counts = counts, .group = static_cast<int>(counts.size())}, only("activations")};
    run.options.units = 341;
    run.options.layers = {"flatten", "hid*", "sigmoid", "fc"};
    // Wide inputs of the sigmoid
    run.network.change = [](ModelState& state) {
      for (std::size_t p = 0; p < state.model().parameters.size(); ++p) {
        const std::span<float> values = state.values(state.parameter(static_cast<int>(p)));
        if (state.model().parameters[p].name == "bn3.weight") std::fill(values.begin(), values.end(), 4.0f);
      }
    };
    const Probed probed = run_probed_network(run);
    EXPECT_EQ(probed.rows.size(), 4u);
    const Model model = model_of(run);
    for (const std::string name : {"flatten", "hidden", "sigmoid", "fc"}) {
      Values all;
      for (const Seen& w : probed.workers) {
        const Values& own = w.before[layer_named(model, name)];
        all.insert(all.end(), own.begin(), own.end());
      }
      EXPECT_NEAR(probed.value("activations", name, "p15"), percentile_of(all, 0.15), 1e-6);
      EXPECT_NEAR(probed.value("activations", name, "p50"), percentile_of(all, 0.5), 1e-6);
      EXPECT_NEAR(probed.value("activations", name, "p85"), percentile_of(all, 0.85), 1e-6);
      const double saturated = probed.value("activations", name, "saturated");
      if (name == "sigmoid") {
        const auto outside = std::count_if(all.begin(), all.end(), [](double x) {
          const double y = 1 / (1 + std::exp(-x));
          return y < 0.02 || y > 0.98;
        });
        EXPECT_GT(outside, 10);
        EXPECT_DOUBLE_EQ(saturated, static_cast<double>(outside) / static_cast<double>(all.size()));
      } else {
        EXPECT_TRUE(std::isnan(saturated));
      }
    }
  }
}

TEST(Probe, ActivationsOfPartOfALayerAreNearThoseOfAll) {
  ProbedRun run{{.counts = {5, 4, 3}, .group = 3}, only("activations", {"conv2", "bn2"})};
  run.options.units = 192;  // of 384
  const Probed probed = run_probed_network(run);
  const Model model = model_of(run);
  for (const std::string name : {"conv2", "bn2"}) {
    Values all;
    for (const Seen& w : probed.workers) {
      const Values& own = w.before[layer_named(model, name)];
      all.insert(all.end(), own.begin(), own.end());
    }
    for (const auto& [quantity, share] : {std::pair("p15", 0.15), std::pair("p50", 0.5), std::pair("p85", 0.85)}) {
      EXPECT_NEAR(probed.value("activations", name, quantity), percentile_of(all, share), 0.1 * std::sqrt(var_of(all)));
    }
    if (name == "bn2") continue;
    const auto zeros = std::count(all.begin(), all.end(), 0.0);  // conv2 reads a ReLU, fused into bn1
    EXPECT_NEAR(probed.value("activations", name, "saturated"),
                static_cast<double>(zeros) / static_cast<double>(all.size()), 0.05);
  }
}

TEST(Probe, NormsOfWeightsGradientsAndUpdates) {
  for (const std::string norm : {"batch", "weight"}) {
    for (const std::vector<int>& counts : kSpreads) {
      const ProbedRun run{
          {.counts = counts, .group = norm == "batch" ? static_cast<int>(counts.size()) : 1, .norm = norm},
          only("norms")};
      const Probed probed = run_probed_network(run);
      const auto backend = ops::make_cpu_backend();
      const ModelState state = small_network_state(run.network, *backend);
      const Model& model = state.model();
      EXPECT_EQ(probed.rows.size(), model.parameters.size() + 1);
      double all[3] = {};
      for (std::size_t p = 0; p < model.parameters.size(); ++p) {
        const FlatRange r = state.parameter(static_cast<int>(p));
        double weight = 0, gradient = 0, update = 0;
        for (auto i = static_cast<std::size_t>(r.offset); i < static_cast<std::size_t>(r.offset + r.count); ++i) {
          weight += std::pow(probed.old_values[i], 2);
          gradient += std::pow(probed.gradient[i], 2);
          update += std::pow(static_cast<double>(probed.new_values[i]) - probed.old_values[i], 2);
        }
        const std::string& name = model.parameters[p].name;
        EXPECT_NEAR(probed.value("norms", name, "weight"), std::sqrt(weight), 1e-9);
        EXPECT_NEAR(probed.value("norms", name, "gradient"), std::sqrt(gradient), 1e-9);
        EXPECT_NEAR(probed.value("norms", name, "update"), std::sqrt(update), 1e-7);
        all[0] += weight;
        all[1] += gradient;
        all[2] += update;
      }
      expect_near(probed.value("norms", "", "weight"), std::sqrt(all[0]), 1e-9);
      expect_near(probed.value("norms", "", "gradient"), std::sqrt(all[1]), 1e-9);
      expect_near(probed.value("norms", "", "update"), std::sqrt(all[2]), 1e-6);
      expect_near(probed.value("norms", "", "update_per_weight"), std::sqrt(all[2] / all[0]), 1e-6);
    }
  }
}

TEST(Probe, ShiftComparesTheBatchBeforeAndAfterTheUpdate) {
  for (const std::string norm : {"batch", "group"}) {
    for (const std::vector<int>& counts : kSpreads) {
      const ProbedRun run{
          {.counts = counts, .group = norm == "batch" ? static_cast<int>(counts.size()) : 1, .norm = norm},
          only("shift")};
      const Probed probed = run_probed_network(run);
      const Model model = model_of(run);
      EXPECT_EQ(probed.rows.size(), model.layers.size() - 1);
      for (int l = 2; l < static_cast<int>(model.layers.size()); ++l) {
        const LayerSpec& spec = model.layers[l];
        const std::int64_t channels = model.layers[spec.input].output.c();
        double mean_shift = 0, std_shift = 0, used = 0;
        for (std::int64_t c = 0; c < channels; ++c) {
          const Values before = channel_of(probed.workers, false, model, l, c);
          const Values after = channel_of(probed.workers, true, model, l, c);
          const double std = std::sqrt(var_of(before));
          if (std == 0) continue;
          ++used;
          mean_shift += std::abs(mean_of(after) - mean_of(before)) / std;
          std_shift += std::abs(std::sqrt(var_of(after)) - std) / std;
        }
        expect_near(probed.value("shift", spec.name, "mean"), mean_shift / used, 1e-4);
        expect_near(probed.value("shift", spec.name, "std"), std_shift / used, 1e-4);
      }
      EXPECT_EQ(probed.value("shift", model.layers[1].name, "mean"), 0);  // of the images themselves
    }
  }
}

std::vector<std::string> texts_of(const std::vector<Measurement>& rows) {
  std::vector<std::string> texts;
  for (const Measurement& row : rows) {
    texts.push_back(row.probe + " " + row.name);
    for (const auto& [name, value] : row.values) {
      char text[64];
      std::snprintf(text, sizeof text, " %s %a", name.c_str(), value);
      texts.back() += text;
    }
  }
  return texts;
}

TEST(Probe, BitsDoNotDependOnRanksAndThreads) {
  Config::Probes options;
  options.names = {"all"};
  for (const std::vector<int>& counts :
       std::vector<std::vector<int>>{{5}, {3, 4}, {2, 0, 3}, {2, 2, 3, 0, 2, 2, 3, 4}}) {
    const int workers = static_cast<int>(counts.size());
    if (workers < job_ranks()) continue;
    for (const int group : workers == 1 ? std::vector<int>{1} : std::vector<int>{1, workers}) {
      const ProbedRun run{{.counts = counts, .group = group}, options};
      const std::vector<std::string> one = texts_of(run_probed_network(run, 1).rows);
      EXPECT_GT(one.size(), 30u);
      for (const int threads : {1, 3}) {
        WorldOptions world_options;
        world_options.workers = workers;
        world_options.threads = threads;
        World world = make_world(world_options);
        const Probed other = run_probed_network(world, run);
        if (world.rank() != 0) continue;
        EXPECT_EQ(texts_of(other.rows), one) << workers << " workers, groups of " << group;
      }
    }
  }
}

TEST(Probe, NamesWhatIsUnknownAndWhatHasNothingToMeasure) {
  const Model model = make_model(small_network_options());
  EXPECT_EQ(select_layers(model, {"conv?", "fc"}).size(), 3u);
  try {
    select_layers(model, {"conv*", "hiden"});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    EXPECT_STREQ(e.what(), "probes.layers: no layer of the network is named 'hiden'; did you mean 'hidden'?");
  }
  EXPECT_EQ(probe_obstacle("batch_noise", model, 4, 2), "");
  EXPECT_NE(probe_obstacle("batch_noise", model, 4, 1), "");
  EXPECT_NE(probe_obstacle("batch_noise", make_model(small_network_options("group")), 4, 4), "");
  EXPECT_EQ(probe_obstacle("gradient_noise_scale", model, 4, 2), "");
  EXPECT_EQ(probe_obstacle("gradient_noise_scale", make_model(small_network_options("group")), 2, 2), "");
  EXPECT_NE(probe_obstacle("gradient_noise_scale", model, 4, 1), "");
  EXPECT_NE(probe_obstacle("gradient_noise_scale", model, 1, 1), "");
}

}  // namespace
}  // namespace syncbn::test
