#pragma once

#include <map>
#include <string>
#include <vector>

#include "support/host_tensor.hpp"
#include "support/small_network.hpp"
#include "train/probes/probes.hpp"

namespace syncbn::test {

struct ProbedRun {
  NetworkRun network;
  Config::Probes options;
  float lr = 0.5f;
};

/// The spreads of 12 samples over workers that probes are tested with.
inline const std::vector<std::vector<int>> kSpreads{{6, 6}, {5, 4, 3}, {0, 7, 1, 4}, {12, 0, 0}, {3, 2, 0, 4, 3}};

Config::Probes only(const std::string& name, std::vector<std::string> layers = {});
/// Of values that must not be 0.
void expect_near(double found, double expected, double relative);

/// What one worker's network held, for oracles: inputs by layer in channels_first order.
struct Seen {
  std::vector<Values> before, after;  ///< the update; [layer], of this worker's samples
  std::vector<float> gradient;        ///< this worker's own, of the parameters
};

struct Probed {
  std::vector<Measurement> rows;
  std::vector<Seen> workers;  ///< of this process
  std::vector<float> old_values, new_values, gradient;

  /// The value of a row; fails the test and gives NaN if there is none.
  double value(const std::string& probe, const std::string& name, const std::string& quantity) const;
};

/// One update of the small network by plain gradient descent, watched by probes as a training's is. Collective over
/// ranks; rows on the rank of worker 0.
Probed run_probed_network(World& world, const ProbedRun& run);
/// In this process alone.
Probed run_probed_network(const ProbedRun& run, int threads = 2);

}  // namespace syncbn::test
