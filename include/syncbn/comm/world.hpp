#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "syncbn/comm/communicator.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

/// How the workers' partial sums are combined.
enum class Reduction {
  ordered,  ///< along one fixed tree over worker indices: the same bits on any number of ranks
  native,   ///< between ranks by MPI_Allreduce, in an order of its own: results depend on the number of ranks
};

struct WorldOptions {
  int workers = 1;  ///< W >= ranks
  int threads = 0;  ///< compute threads of this rank, which share its workers; 0 = its share of the machine's cores
  Reduction reduction = Reduction::ordered;
  double timeout_s = 30;  ///< how long members wait for one that does not arrive; the job is ended a few seconds later
};

namespace detail {
class RankContext;
}
class World;

/// One data-parallel worker of the experiment, as seen by the function that World::run executes for it.
class Worker {
 public:
  int index() const;                                ///< 0 .. W-1
  int local_index() const { return local_index_; }  ///< 0 .. local_workers-1 within this rank
  const World& world() const { return world_; }
  /// All W workers.
  const Communicator& all() const { return all_; }
  /// A further communicator over all W workers, with its own message stream. Collective over all workers.
  Communicator duplicate() const;
  /// Makes a communicator of the consecutive workers [k*G, (k+1)*G) to which this worker belongs; G must divide W. G =
  /// 1 gives a communicator of one, G = W one of all. Collective over all workers.
  Communicator group(int workers_per_group) const;
  /// Makes a communicator of the workers on this machine (ranks that share memory), which must be consecutive. The only
  /// method here that depends on the machine. Collective over all workers.
  Communicator node_group() const;
  /// Waits for the workers of this rank only. All local workers must call it with the same tag.
  void local_barrier(const Tag& tag = {"local barrier"}) const;

  /// Made by World::run.
  Worker(const World& world, int local_index);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

 private:
  Communicator join(std::shared_ptr<detail::Channel> channel) const;

  const World& world_;
  int local_index_;
  Communicator all_, local_;
};

/// The workers of an experiment spread over the ranks of a job. Rank r of P hosts the consecutive workers
/// [r*W/P, (r+1)*W/P).
class World {
 public:
  /// Makes a world with all workers as threads of this process; MPI is not touched.
  static World threads(const WorldOptions& options);
  /// Makes a world with the workers spread over the ranks of an MPI communicator, given by its Fortran handle
  /// (MPI_Comm_c2f(comm)), which is duplicated. MPI must be initialized with MPI_THREAD_MULTIPLE. Collective over its
  /// ranks. Throws Error(usage) on all ranks when W < P, naming both; Error(unavailable) without MPI_THREAD_MULTIPLE.
  static World mpi(const WorldOptions& options, int fortran_comm);

  World(World&&) noexcept;  ///< a moved-from world can only be destroyed or assigned to
  World& operator=(World&&) noexcept;
  ~World();

  int workers() const;
  int ranks() const;
  int rank() const;
  int first_worker() const;   ///< of this rank
  int local_workers() const;  ///< of this rank
  int threads() const;        ///< compute threads of this rank
  /// Host names, one per rank.
  const std::vector<std::string>& hosts() const;
  /// The lowest rank on each rank's machine (ranks that share memory), one per rank. Distinguishes machines even if
  /// their host names are equal.
  const std::vector<int>& nodes() const;

  /// Runs `body` once for every local worker, and returns when all are done. Collective over ranks. Consecutive workers
  /// share the rank's compute threads (a single worker runs on the caller's): one runs until it waits in a collective,
  /// then the next. So `body` must not wait for another worker in any other way. Its stack has 8 MiB. When one throws,
  /// the others leave their collectives with Aborted, and the first failure is rethrown here; the world is then
  /// unusable and the process should call abort(). If a worker does not return within 5 s of a failure, being stuck in
  /// its own code, run() calls abort() itself.
  void run(const std::function<void(Worker&)>& body);

  /// Throws Error(usage) on every rank unless all ranks pass the same bytes; names the first differing rank. `what`
  /// names what is compared ("configuration", "build"). Outside run(), else Error(usage). Collective over ranks.
  void require_same(const std::string& what, const std::string& value) const;
  /// Maximum of one number over the ranks; NaN if one of them is. Outside run(), else Error(usage). Collective over
  /// ranks.
  double max_over_ranks(double value) const;
  /// Copies rank 0's string to all ranks. Outside run(), else Error(usage). Collective over ranks.
  std::string broadcast(const std::string& value) const;

  /// Ends the whole job with this exit code (MPI_Abort; exits the process without MPI). Not collective; never returns.
  /// Ranks other than the lowest wait a moment first, so that one failure is normally reported only once.
  [[noreturn]] void abort(const std::string& message, ExitCode code) const;

  /// For internal use by the library.
  const std::shared_ptr<detail::RankContext>& context() const { return context_; }

 private:
  explicit World(std::shared_ptr<detail::RankContext> context);
  std::shared_ptr<detail::RankContext> context_;
};

/// Initializes MPI with MPI_THREAD_MULTIPLE and finalizes it at the end of its life. MPI_ERRORS_RETURN is set, and
/// errors become Error with MPI's own text. Programs that initialize MPI themselves do not need it.
class MpiEnvironment {
 public:
  MpiEnvironment();
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;
  int fortran_comm() const;  ///< of MPI_COMM_WORLD
  int ranks() const;
  int rank() const;
  static std::string library_version();

 private:
  int ranks_ = 1;
  int rank_ = 0;
};

}  // namespace syncbn
