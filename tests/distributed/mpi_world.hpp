#pragma once

#include "syncbn/comm/world.hpp"

namespace syncbn::test {

int world_comm();  ///< Fortran handle of the communicator the tests run on
int rank_count();
int my_rank();

/// W workers over all ranks of the test.
inline World mpi_world(int workers, Reduction reduction = Reduction::ordered, double timeout_s = 30, int threads = 0) {
  WorldOptions options;
  options.workers = workers;
  options.threads = threads;
  options.reduction = reduction;
  options.timeout_s = timeout_s;
  return World::mpi(options, world_comm());
}

/// The same workers as threads of this process alone: what the distributed result must equal to the bit.
inline World thread_world(int workers) {
  WorldOptions options;
  options.workers = workers;
  return World::threads(options);
}

}  // namespace syncbn::test
