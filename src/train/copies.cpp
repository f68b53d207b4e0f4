#include "train/copies.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "comm/rank_context.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

std::uint64_t hash_state(ModelState& state, Optimizer& optimizer) {
  state.fetch();
  optimizer.fetch_state();
  const auto add = [](std::span<const float> values, std::uint64_t hash) {
    return XXH3_64bits_withSeed(values.data(), values.size_bytes(), hash);
  };
  std::uint64_t hash = add(state.values(), static_cast<std::uint64_t>(optimizer.updates()));
  for (int b = 0; b < std::ssize(optimizer.state_names()); ++b) hash = add(optimizer.state(b), hash);
  return std::max<std::uint64_t>(hash, 1);
}

void require_same_copies(const Worker& worker, const Communicator& all, std::uint64_t hash, std::int64_t steps_done) {
  const World& world = worker.world();
  std::vector<std::int64_t> hashes(static_cast<std::size_t>(world.ranks()));
  if (hash != 0) hashes[static_cast<std::size_t>(world.rank())] = static_cast<std::int64_t>(hash);
  all.all_reduce(hashes, Reduce::sum, {"comparison of all copies of the weights", steps_done});
  std::map<std::int64_t, int> copies;
  for (const std::int64_t h : hashes)
    if (h != 0) ++copies[h];
  if (copies.size() < 2) return;
  const auto most =
      std::max_element(copies.begin(), copies.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto first_with = [&](auto wanted) {
    const auto found = std::find_if(hashes.begin(), hashes.end(), wanted);
    return world.context()->topology().describe_rank(static_cast<int>(found - hashes.begin()));
  };
  throw Error(fmt::format(
      "after step {}, {} has other weights, statistics or optimizer state than {}, though all have made the same "
      "updates: the memory of one of these machines is damaged; go on without it, with --resume from the last "
      "checkpoint",
      steps_done, first_with([&](std::int64_t h) { return h != 0 && h != most->first; }),
      first_with([&](std::int64_t h) { return h == most->first; })));
}

}  // namespace syncbn
