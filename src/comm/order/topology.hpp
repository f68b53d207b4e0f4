#pragma once

#include <string>
#include <vector>

namespace syncbn::detail {

/// Consecutive workers, or ranks, [first, last).
struct IndexRange {
  int first = 0;
  int last = 0;
  int size() const { return last - first; }
  bool contains(int index) const { return index >= first && index < last; }
};

IndexRange intersect(const IndexRange& a, const IndexRange& b);

/// A rank and the workers whose values it contributes.
struct Party {
  int rank = 0;
  IndexRange workers;
};

/// Which workers live on which rank, and which rank on which host.
struct Topology {
  int workers = 1;
  int ranks = 1;
  int rank = 0;                         ///< this process
  std::vector<std::string> hosts = {};  ///< host name of every rank
  std::vector<int> nodes = {};          ///< lowest rank of every rank's machine (ranks that share memory)
  int node_cores = 1;                   ///< cores that all ranks of this machine together may use

  IndexRange of_rank(int r) const;
  IndexRange local() const { return of_rank(rank); }
  IndexRange all() const { return {0, workers}; }
  IndexRange this_rank() const { return {rank, rank + 1}; }
  /// The ranks that host some of these workers, in ascending order.
  std::vector<Party> parties(const IndexRange& members) const;
  /// Divides all workers into groups of this many consecutive workers.
  std::vector<IndexRange> groups(int workers_per_group) const;
  int ranks_on_this_node() const;
  /// Whether the ranks of every machine are consecutive.
  bool nodes_are_contiguous() const;
  /// The ranks of this machine; only this rank if the ranks of some machine are not consecutive.
  IndexRange ranks_here() const;
  /// The consecutive workers of each machine. Error(usage) when a machine's ranks are not consecutive.
  std::vector<IndexRange> by_node() const;

  std::string describe_rank(int r) const;         ///< "rank 2 (node3, workers 4-5)"
  std::string describe_worker(int worker) const;  ///< "worker 5 (rank 2, node3)"
};

/// Number of cores that this process may use.
int cores_offered();

}  // namespace syncbn::detail
