#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/teams.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn::cli {

/// What mpirun, srun, ... left in the environment of this process.
struct Launcher {
  std::string variable;  ///< the one that was found; empty: started by hand
  int ranks = 1;         ///< as the launcher says
  int rank = 0;
};
Launcher detect_launcher();

/// Rank 0 reports what went wrong; the others only leave with the same exit code.
class ReportedByRankZero : public Error {
 public:
  explicit ReportedByRankZero(ExitCode code) : Error("reported by rank 0", code) {}
};

/// The processes that were started together. MPI is used if and only if a launcher started this process.
class Job {
 public:
  /// Throws Error(unavailable) when MPI does not see the ranks that the launcher has started, with the line that works.
  Job();

  int ranks() const { return plain_.ranks(); }
  int rank() const { return plain_.rank(); }
  bool first() const { return rank() == 0; }
  const std::vector<std::string>& hosts() const { return plain_.hosts(); }
  const std::vector<int>& nodes() const { return plain_.nodes(); }

  /// Runs `what` on rank 0 and hands its text to all. What it throws there is reported, and all ranks leave. Collective
  /// over ranks.
  std::string on_rank_zero(const std::function<std::string()>& what) const;
  /// Refuses ranks that are other builds, or have another command line, of which only rank 0's would count here and
  /// there. `command`: argv. Collective over ranks.
  void require_alike(const std::vector<std::string>& command) const;
  /// Refuses processors that would compute with other instructions. Collective over ranks.
  void require_same_instructions() const;
  /// Reads the configuration on rank 0; `workers: auto` is resolved. Collective over ranks.
  Config load(const std::function<Config()>& read) const;
  /// Cores that the launch offers to all ranks together, each counted once. Collective over ranks.
  int cores_offered() const;
  /// A world on the ranks of this job. Collective over ranks.
  World make_world(const WorldOptions& options) const;
  /// For several trainings at once. Collective over ranks.
  std::unique_ptr<Teams> make_teams() const;

 private:
  void require_same(const char* what, const std::string& value, const char* remedy = "") const;

  Launcher launcher_;
  std::unique_ptr<MpiEnvironment> mpi_;
  mutable World plain_;  // one worker per rank, for what happens before the experiment's world exists
};

/// Runs `work`; if it throws on one of several ranks, the whole job is ended with the error's code.
void run_guarded(const World& world, const std::function<void()>& work);

}  // namespace syncbn::cli
