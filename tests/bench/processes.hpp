#pragma once

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "syncbn/comm/world.hpp"

namespace syncbn::bench {

/// The processes that were started together: one, or the ranks of an mpirun, which share the cores.
class Processes {
 public:
  Processes() {
    if (std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMI_SIZE")) mpi_.emplace();
  }
  int ranks() const { return mpi_ ? mpi_->ranks() : 1; }
  bool first() const { return !mpi_ || mpi_->rank() == 0; }
  int threads() const { return std::max(1, cores() / ranks()); }
  World world(int workers) const {
    WorldOptions options;
    options.workers = workers;
    options.threads = threads();
    return mpi_ ? World::mpi(options, mpi_->fortran_comm()) : World::threads(options);
  }

  static int cores() {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }

 private:
  std::optional<MpiEnvironment> mpi_;
};

}  // namespace syncbn::bench
