#pragma once

#include "support/worlds.hpp"

namespace syncbn::test {

/// W workers over all ranks of the job.
inline World mpi_world(int workers, Reduction reduction = Reduction::ordered, double timeout_s = 30, int threads = 0) {
  WorldOptions options;
  options.workers = workers;
  options.threads = threads;
  options.reduction = reduction;
  options.timeout_s = timeout_s;
  return make_world(options);
}

/// The same workers as threads of this process alone: what the distributed result must equal to the bit.
inline World thread_world(int workers) {
  WorldOptions options;
  options.workers = workers;
  return World::threads(options);
}

}  // namespace syncbn::test
