#pragma once

#include <string>
#include <vector>

#include "syncbn/comm/world.hpp"
#include "train/explain/explain.hpp"

namespace syncbn {

/// What a machine gives: the few figures from which the time of a step is predicted. All times in seconds.
struct MachineFigures {
  double sample = 1e-3;       ///< forward and backward of one sample on one core, all cores busy
  double update = 1e-3;       ///< new weights from the summed gradient, on one core
  double latency = 10e-6;     ///< of an exchange between ranks, however small
  double per_message = 1e-6;  ///< for every further rank that takes part in an exchange
  double bandwidth = 1e9;     ///< bytes per second that a rank sends
  double skew = 5e-6;         ///< standard deviation of the moment at which a rank comes to an exchange
  int threads = 1;            ///< cores of a rank
  int ranks_per_machine = 1;  ///< on the CPU these share an update
};

/// Where the time of one update goes on some number of ranks, in seconds.
struct StepCost {
  int ranks = 1;
  double compute = 0;     ///< of the rank with the most workers, their samples spread over its threads
  double statistics = 0;  ///< messages of the normalization layers
  double gradients = 0;   ///< gradient messages as far as the backward pass does not hide them
  double skew = 0;        ///< waiting for the last rank
  double update = 0;
  double total() const { return compute + statistics + gradients + skew + update; }
  /// The largest part: "compute", "statistics", "gradients", "skew" or "update".
  std::string largest() const;
};

/// Every rank of an exchange sends each of the others one message; above some size each rank combines a share of the
/// values and sends it on in a second one. A rank is late by a normal deviate, and p ranks wait for the latest, which
/// is expected to be sqrt(2 ln p) deviations late.
StepCost predict_step(const Config& config, const Explanation& e, const MachineFigures& figures, int ranks);

/// Predictions for 1, 2, 4, ... ranks, up to one per worker.
std::vector<StepCost> predict_steps(const Config& config, const MachineFigures& figures);

/// Measures compute and update with all threads of `world` (one worker per thread) busy, and, if there are several
/// ranks, latency, bandwidth and skew between them; what cannot be measured is left as in `otherwise`. Takes about a
/// second. Collective over ranks.
MachineFigures measure_machine(World& world, const Config& config, MachineFigures otherwise);

}  // namespace syncbn
