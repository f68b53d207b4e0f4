#pragma once

#include <functional>
#include <vector>

#include "nn/network.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn::test {

/// A residual network with every kind of layer that matters to the executor, for 2x8x8 images and 5 classes.
ModelOptions small_network_options();

struct NetworkResult {
  double loss = 0;                ///< mean over all samples
  std::vector<float> gradient;    ///< flat, summed over all workers
  std::vector<float> statistics;  ///< running statistics after one update
};

/// One forward and backward over `samples` images that depend on the sample index alone, worker w holding counts[w] of
/// them in order; group = workers that share statistics.
NetworkResult run_small_network(const std::vector<int>& counts, int group, int threads = 2,
                                const std::function<void(ModelState&)>& change = {});

}  // namespace syncbn::test
