#pragma once

#include <string>
#include <vector>

namespace syncbn::detail {

/// Consecutive workers, or ranks, [first, last).
struct WorkerRange {
  int first = 0;
  int last = 0;
  int size() const { return last - first; }
  bool contains(int worker) const { return worker >= first && worker < last; }
};

WorkerRange intersect(const WorkerRange& a, const WorkerRange& b);

/// Which workers live on which rank, and which rank on which host.
struct Layout {
  int workers = 1;
  int ranks = 1;
  int rank = 0;                         ///< this process
  std::vector<std::string> hosts = {};  ///< host name of every rank
  std::vector<int> nodes = {};          ///< lowest rank of every rank's machine (ranks that share memory)
  int node_cores = 1;                   ///< cores that the ranks of this machine may use, all together

  WorkerRange of_rank(int r) const;
  WorkerRange local() const { return of_rank(rank); }
  int ranks_on_this_node() const;
  /// Whether the ranks of every machine are neighbours.
  bool machines_are_neighbourhoods() const;
  /// The ranks of this machine; this one alone unless those of every machine are neighbours.
  WorkerRange ranks_here() const;
  /// The consecutive workers of each machine. Error(usage) when a machine's ranks are not consecutive.
  std::vector<WorkerRange> by_node() const;

  std::string describe_rank(int r) const;         ///< "rank 2 (node3, workers 4-5)"
  std::string describe_worker(int worker) const;  ///< "worker 5 (rank 2, node3)"
};

/// Cores that this process may use.
int cores_offered();

}  // namespace syncbn::detail
