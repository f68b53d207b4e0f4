#include "train/stragglers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "comm/rank_context.hpp"

namespace syncbn {

namespace {

/// Shorter intervals are too noisy.
constexpr double kInterval_s = 5;
/// Report a rank if the median rank waits at least this much more (share of thread time) than it does.
constexpr double kMuch = 0.2;

}  // namespace

Stragglers::Stragglers(const Worker& worker, const Communicator& all, std::int64_t updates)
    : worker_(worker), all_(all), updates_then_(updates) {}

std::string Stragglers::look(double now_s, double waited_s, std::int64_t updates) {
  const World& world = worker_.world();
  const double elapsed_s = now_s - then_s_;
  if (world.ranks() == 1 || elapsed_s < kInterval_s) return "";
  const auto ranks = static_cast<std::size_t>(world.ranks()), own = static_cast<std::size_t>(world.rank());
  // For each rank, the time of its threads that was lost by waiting, then all of it. Workers in excess of the threads
  // always wait while others compute; that is no loss.
  std::vector<double> times(2 * ranks);
  times[own] = waited_s - waited_then_s_ - elapsed_s;
  if (worker_.local_index() == 0) {
    times[ranks + own] = elapsed_s * std::min(world.threads(), world.local_workers());
    times[own] += times[ranks + own];
  }
  all_.all_reduce(times, Reduce::sum, {"waits of all ranks", updates});
  const std::int64_t updates_since = updates - updates_then_;
  then_s_ = now_s;
  waited_then_s_ = waited_s;
  updates_then_ = updates;

  std::vector<double> shares;
  for (std::size_t r = 0; r < ranks; ++r) shares.push_back(std::max(0.0, times[r]) / times[ranks + r]);
  const auto least = std::min_element(shares.begin(), shares.end());
  const auto rank = least - shares.begin();
  const double share = *least;
  shares.erase(least);
  const auto middle = shares.begin() + std::ssize(shares) / 2;
  std::nth_element(shares.begin(), middle, shares.end());
  if (*middle < share + kMuch || !told_.insert(rank).second) return "";
  return fmt::format(
      "{} holds up the others: in the last {} updates they have waited {:.0f} % of their time, it {:.0f} %",
      world.context()->topology().describe_rank(static_cast<int>(rank)), updates_since, 100 * *middle, 100 * share);
}

}  // namespace syncbn
