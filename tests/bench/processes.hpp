#pragma once

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <thread>

#include "syncbn/comm/world.hpp"

namespace syncbn::bench {

inline World make_world(std::optional<int> fortran_comm, int workers, int threads) {
  WorldOptions options;
  options.workers = workers;
  options.threads = threads;
  return fortran_comm ? World::mpi(options, *fortran_comm) : World::threads(options);
}

/// The first ranks of those that were started together. While they work, all cores are theirs.
class Part {
 public:
  /// `comm`: of the part, on other ranks MPI_COMM_NULL; without MPI none.
  Part(int ranks, int threads, std::optional<MPI_Comm> comm) : ranks_(ranks), threads_(threads), comm_(comm) {}

  int ranks() const { return ranks_; }
  int threads() const { return threads_; }
  World world(int workers) const {
    return make_world(comm_ ? std::optional(MPI_Comm_c2f(*comm_)) : std::nullopt, workers, threads_);
  }

  /// Does the work on the ranks of the part; the others sleep until it is done. Collective over all ranks.
  template <class Work>
  void run(Work work) const {
    if (!comm_) return work();
    if (*comm_ != MPI_COMM_NULL) work();
    MPI_Request done = MPI_REQUEST_NULL;
    MPI_Ibarrier(MPI_COMM_WORLD, &done);
    for (int passed = 0; MPI_Test(&done, &passed, MPI_STATUS_IGNORE) == MPI_SUCCESS && !passed;)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

 private:
  int ranks_, threads_;
  std::optional<MPI_Comm> comm_;
};

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
    return make_world(mpi_ ? std::optional(mpi_->fortran_comm()) : std::nullopt, workers, threads());
  }
  /// The first `ranks` of them, with the cores of all. Collective over all ranks.
  Part part(int ranks) const {
    const int threads = this->ranks() * this->threads() / ranks;
    if (!mpi_) return {ranks, threads, std::nullopt};
    MPI_Comm comm = MPI_COMM_NULL;
    MPI_Comm_split(MPI_COMM_WORLD, mpi_->rank() < ranks ? 0 : MPI_UNDEFINED, 0, &comm);
    return {ranks, threads, comm};
  }

  static int cores() {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }

 private:
  std::optional<MpiEnvironment> mpi_;
};

}  // namespace syncbn::bench
