#pragma once

#include <vector>

#include "syncbn/comm/world.hpp"

namespace syncbn::test {

// The tests of what depends on communication are built twice: into the unit tests, where all workers are threads of one
// process, and into the tests that run under mpirun. These two functions are what differs.

/// Ranks of this job; 1 without MPI.
int job_ranks();
/// A world over all ranks of this job. Collective.
World make_world(const WorldOptions& options);

inline World make_world(int workers) {
  WorldOptions options;
  options.workers = workers;
  return make_world(options);
}

/// 1 .. 8, as far as every rank gets a worker.
inline std::vector<int> world_sizes() {
  std::vector<int> sizes;
  for (int w = job_ranks(); w <= 8; ++w) sizes.push_back(w);
  return sizes;
}

}  // namespace syncbn::test
