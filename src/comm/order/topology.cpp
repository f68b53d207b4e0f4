#include "comm/order/topology.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <thread>

#include "syncbn/core/error.hpp"

namespace syncbn::detail {

IndexRange intersect(const IndexRange& a, const IndexRange& b) {
  const int first = std::max(a.first, b.first);
  return {first, std::max(first, std::min(a.last, b.last))};
}

IndexRange Topology::of_rank(int r) const {
  const auto begin = [this](std::int64_t i) { return static_cast<int>(i * workers / ranks); };
  return {begin(r), begin(r + 1)};
}

std::vector<Party> Topology::parties(const IndexRange& members) const {
  std::vector<Party> result;
  for (int r = 0; r < ranks; ++r)
    if (const IndexRange theirs = intersect(of_rank(r), members); theirs.size() > 0) result.push_back({r, theirs});
  return result;
}

std::vector<IndexRange> Topology::groups(int workers_per_group) const {
  std::vector<IndexRange> result;
  for (int first = 0; first < workers; first += workers_per_group) result.push_back({first, first + workers_per_group});
  return result;
}

int Topology::ranks_on_this_node() const {
  return static_cast<int>(std::count(nodes.begin(), nodes.end(), nodes[rank]));
}

bool Topology::nodes_are_contiguous() const {
  for (std::size_t r = 1; r < nodes.size(); ++r)
    if (nodes[r] != nodes[r - 1] && nodes[r] != static_cast<int>(r)) return false;  // first ranks name machines
  return true;
}

IndexRange Topology::ranks_here() const {
  IndexRange here = this_rank();
  if (ranks == 1 || !nodes_are_contiguous()) return here;
  const auto node = [this](int r) { return nodes[r]; };
  while (here.first > 0 && node(here.first - 1) == node(rank)) --here.first;
  while (here.last < ranks && node(here.last) == node(rank)) ++here.last;
  return here;
}

std::vector<IndexRange> Topology::by_node() const {
  std::vector<IndexRange> groups;
  std::vector<int> seen;
  for (int r = 0; r < ranks; ++r) {
    const int node = nodes[r];
    if (r > 0 && node == nodes[static_cast<std::size_t>(r) - 1]) {
      groups.back().last = of_rank(r).last;
      continue;
    }
    if (std::find(seen.begin(), seen.end(), node) != seen.end())
      throw Error(fmt::format("ranks {} and {} are on {}, the ranks between them are not: a group per node needs the "
                              "ranks of a host side by side; start them host by host (mpirun --map-by slot)",
                              node, r, hosts[r]),
                  ExitCode::usage);
    seen.push_back(node);
    groups.push_back(of_rank(r));
  }
  return groups;
}

std::string Topology::describe_rank(int r) const {
  const IndexRange range = of_rank(r);
  const std::string& host = hosts[r];
  if (range.size() == 1) return fmt::format("rank {} ({}, worker {})", r, host, range.first);
  return fmt::format("rank {} ({}, workers {}-{})", r, host, range.first, range.last - 1);
}

std::string Topology::describe_worker(int worker) const {
  int r = 0;
  while (!of_rank(r).contains(worker)) ++r;
  return fmt::format("worker {} (rank {}, {})", worker, r, hosts[r]);
}

int cores_offered() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace syncbn::detail
