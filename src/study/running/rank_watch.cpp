#include "study/running/rank_watch.hpp"

#include <fmt/format.h>

#include <utility>

#include "comm/threads/waiting_clock.hpp"

namespace syncbn {

RankWatch::RankWatch(int ranks, std::vector<std::string> hosts)
    : ranks_(static_cast<std::size_t>(ranks), Rank{detail::waiting_clock_s()}), hosts_(std::move(hosts)) {}

bool RankWatch::heard(int rank) {
  Rank& r = ranks_[rank];
  r.heard_s = detail::waiting_clock_s();
  return std::exchange(r.told, false);
}

bool RankWatch::missed(int rank, double limit_s) {
  if (ranks_[rank].told || silent_s(rank) <= limit_s) return false;
  return ranks_[rank].told = true;
}

double RankWatch::silent_s(int rank) const {
  return detail::waiting_clock_s() - ranks_[rank].heard_s;
}

std::string RankWatch::silence(int rank) const {
  return fmt::format("{} has not been heard from for {:.0f} s: stopped, stuck or unreachable", describe(rank),
                     silent_s(rank));
}

std::string RankWatch::describe(int rank) const {
  if (hosts_.empty()) return fmt::format("rank {}", rank);
  return fmt::format("rank {} ({})", rank, hosts_[rank]);
}

}  // namespace syncbn
