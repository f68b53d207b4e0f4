#pragma once

#include <functional>
#include <string>
#include <vector>

#include "nn/network.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn::test {

/// Numbers in [-2, 2) that are exact in f32 and the same wherever they are made: pytorch_values.py makes them, too.
std::vector<float> drawn(std::uint32_t salt, std::size_t count);

/// A residual network with every kind of layer that matters to the executor, for 2x8x8 images and 5 classes.
ModelOptions small_network_options(const std::string& norm = "batch");

/// Samples [first, first + n) for it: images drawn(sample, ...), labels sample * 3 % 5.
struct SmallBatch {
  std::vector<float> images;
  std::vector<int> labels;
  std::vector<std::int64_t> ids;
};
SmallBatch small_batch(int first, int n);

struct NetworkResult {
  double loss = 0;                ///< mean over all samples
  std::vector<float> gradient;    ///< flat, summed over all workers
  std::vector<float> statistics;  ///< running statistics after one update
};

struct NetworkRun {
  std::vector<int> counts;                       ///< samples per worker
  int group = 1;                                 ///< workers that share statistics
  std::string norm = "batch";                    ///< norm.type
  std::function<void(ModelState&)> change = {};  ///< made to the initial state
  double momentum = 0.1;
  std::int64_t momentum_reference_batch = 0;
};

/// What a network with these settings starts from.
ModelState small_network_state(const NetworkRun& run, const ops::Backend& backend);

/// One forward and backward over images that depend on the sample index alone; worker w holds counts[w] of
/// them in order. The same result on all ranks. Collective over ranks.
NetworkResult run_small_network(World& world, const NetworkRun& run);
/// In this process alone.
NetworkResult run_small_network(const NetworkRun& run, int threads = 2);
inline NetworkResult run_small_network(const std::vector<int>& counts, int group, int threads = 2,
                                       const std::function<void(ModelState&)>& change = {}) {
  return run_small_network(NetworkRun{.counts = counts, .group = group, .change = change}, threads);
}

}  // namespace syncbn::test
