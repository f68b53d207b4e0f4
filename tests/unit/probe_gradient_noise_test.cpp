// The gradient noise scale against brute force, with uneven and empty workers.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "support/probed_network.hpp"
#include "train/probes/gradient_noise.hpp"

namespace syncbn::test {
namespace {

// Over all ways to draw a batch of 3 from these gradients, in parts of 1 and 2: the estimates' averages are the truth.
TEST(Probe, GradientNoiseIsUnbiasedForUnevenParts) {
  using Vector = std::array<double, 2>;
  const std::vector<Vector> gradients{{1, 2}, {-0.5, 0.25}, {3, -1}};
  const auto mean = [](const std::vector<Vector>& list) {
    Vector m{};
    for (const Vector& v : list) {
      for (std::size_t i = 0; i < 2; ++i) m[i] += v[i] / static_cast<double>(list.size());
    }
    return m;
  };
  const auto squared = [](const Vector& v) { return v[0] * v[0] + v[1] * v[1]; };
  const Vector truth = mean(gradients);
  double trace = 0;
  for (const Vector& v : gradients) trace += squared({v[0] - truth[0], v[1] - truth[1]}) / 3;
  GradientNoise average;
  for (const Vector& a : gradients) {
    for (const Vector& b : gradients) {
      for (const Vector& c : gradients) {
        const double small = squared(a) / 3 + squared(mean({b, c})) * 2 / 3;
        const GradientNoise one = gradient_noise(small, 2, squared(mean({a, b, c})), 3);
        average.squared += one.squared / 27;
        average.trace += one.trace / 27;
      }
    }
  }
  EXPECT_NEAR(average.squared, squared(truth), 1e-12);
  EXPECT_NEAR(average.trace, trace, 1e-12);
  EXPECT_TRUE(std::isnan(gradient_noise(1, 1, 1, 3).trace));
}

/// Appendix A.1 by its formulas, from the mean gradients of the parts.
GradientNoise brute_force(const std::vector<std::vector<double>>& mean_gradients, const std::vector<int>& counts) {
  const double all = std::accumulate(counts.begin(), counts.end(), 0.0);
  double small = 0, big = 0, parts = 0;
  std::vector<double> total;
  for (std::size_t w = 0; w < counts.size(); ++w) {
    if (counts[w] == 0) continue;
    ++parts;
    total.resize(mean_gradients[w].size());
    for (std::size_t i = 0; i < total.size(); ++i) {
      small += counts[w] / all * mean_gradients[w][i] * mean_gradients[w][i];
      total[i] += counts[w] / all * mean_gradients[w][i];
    }
  }
  for (const double g : total) big += g * g;
  if (parts < 2) return {std::nan(""), std::nan("")};
  const double few = all / parts;
  return {(all * big - few * small) / (all - few), (small - big) / (1 / few - 1 / all)};
}

/// Of a whole update of the network, from the workers' own gradients.
GradientNoise brute_force(const Probed& probed, const ProbedRun& run) {
  const auto backend = ops::make_cpu_backend();
  const ModelState state = small_network_state(run.network, *backend);
  const auto group = static_cast<std::size_t>(run.network.group);
  std::vector<std::vector<double>> gradients(probed.workers.size() / group);
  std::vector<int> counts(gradients.size());
  for (std::size_t w = 0; w < probed.workers.size(); ++w) counts[w / group] += run.network.counts[w];
  for (std::size_t p = 0; p < state.model().parameters.size(); ++p) {
    const ParameterKind kind = state.model().parameters[p].kind;
    if (kind == ParameterKind::norm_weight || kind == ParameterKind::norm_bias) continue;
    const FlatRange r = state.parameter(static_cast<int>(p));
    for (std::int64_t i = r.offset; i < r.offset + r.count; ++i) {
      for (std::size_t g = 0; g < gradients.size(); ++g) {
        double sum = 0;
        for (std::size_t w = g * group; w < (g + 1) * group; ++w) {
          sum += probed.workers[w].gradient[i];
        }
        gradients[g].push_back(counts[g] == 0 ? 0 : sum * 12 / counts[g]);  // 12 samples in all
      }
    }
  }
  return brute_force(gradients, counts);
}

TEST(Probe, GradientNoiseScaleAgreesWithBruteForce) {
  std::vector<NetworkRun> runs;
  for (const std::vector<int>& counts : kSpreads) {
    for (const std::string norm : {"group", "none"}) runs.push_back({.counts = counts, .group = 1, .norm = norm});
  }
  for (const std::string norm : {"batch", "whitening"}) {
    runs.push_back({.counts = {6, 6}, .group = 1, .norm = norm});
    runs.push_back({.counts = {5, 4, 3}, .group = 1, .norm = norm});
    runs.push_back({.counts = {0, 7, 1, 4}, .group = 2, .norm = norm});
    runs.push_back({.counts = {0, 0, 3, 4, 2, 3}, .group = 2, .norm = norm});
  }
  for (const NetworkRun& network : runs) {
    const ProbedRun run{network, only("gradient_noise_scale")};
    const Probed probed = run_probed_network(run);
    const double trace = probed.value("gradient_noise_scale", "", "covariance_trace");
    const GradientNoise expected = brute_force(probed, run);
    if (std::isnan(expected.trace)) {  // all samples in one part
      EXPECT_TRUE(std::isnan(trace));
      continue;
    }
    expect_near(trace, expected.trace, 1e-5);
    expect_near(probed.value("gradient_noise_scale", "", "gradient_squared"), expected.squared, 1e-5);
    const double scale = probed.value("gradient_noise_scale", "", "scale");
    if (expected.squared > 0) {
      expect_near(scale, expected.trace / expected.squared, 1e-4);
    } else {
      EXPECT_TRUE(std::isnan(scale));
    }
  }
}

// Without batch statistics a worker's gradient is that of its samples alone: here from single processes that train on
// the first n samples, whose sums differ by the samples in between.
TEST(Probe, GradientNoiseScaleAgreesWithSeparateGradients) {
  const std::vector<int> counts{5, 0, 4, 3};
  const ProbedRun run{{.counts = counts, .group = 1, .norm = "none"}, only("gradient_noise_scale")};
  std::vector<std::vector<double>> gradients(counts.size());
  std::vector<double> before;
  int first = 0;
  for (std::size_t w = 0; w < counts.size(); ++w) {
    first += counts[w];
    const NetworkResult up_to = run_small_network(NetworkRun{.counts = {first}, .group = 1, .norm = "none"});
    before.resize(up_to.gradient.size());
    for (std::size_t i = 0; i < up_to.gradient.size(); ++i) {
      const double sum = static_cast<double>(up_to.gradient[i]) * first;
      gradients[w].push_back(counts[w] == 0 ? 0 : (sum - before[i]) / counts[w]);
      before[i] = sum;
    }
  }
  const Probed probed = run_probed_network(run);
  const GradientNoise expected = brute_force(gradients, counts);
  expect_near(probed.value("gradient_noise_scale", "", "covariance_trace"), expected.trace, 1e-4);
  expect_near(probed.value("gradient_noise_scale", "", "gradient_squared"), expected.squared, 1e-4);
}

}  // namespace
}  // namespace syncbn::test
