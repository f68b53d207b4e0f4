#include <mpi.h>

#include "support/worlds.hpp"

namespace syncbn::test {

int job_ranks() {
  int ranks = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  return ranks;
}

World make_world(const WorldOptions& options) {
  return World::mpi(options, static_cast<int>(MPI_Comm_c2f(MPI_COMM_WORLD)));
}

}  // namespace syncbn::test
