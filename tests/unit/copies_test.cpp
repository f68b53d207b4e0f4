#include "train/copies.hpp"

#include <gtest/gtest.h>

#include <set>

#include "support/small_network.hpp"
#include "train/storage/state_io.hpp"

namespace syncbn {
namespace {

TEST(Copies, AreHashedWithEveryBitOfWeightsStatisticsAndOptimizer) {
  const auto backend = ops::make_cpu_backend();
  ModelState state(make_model(test::small_network_options()), {}, *backend);
  state.initialize(1);
  const auto optimizer = make_optimizer({.name = "adam"}, parameter_slots(state), state.flat_size());
  std::set<std::uint64_t> hashes = {hash_state(state, *optimizer)};
  EXPECT_EQ(hashes, std::set{hash_state(state, *optimizer)});
  const auto changes = [&](float& value) {
    const float before = value;
    value += 1e-6F;
    hashes.insert(hash_state(state, *optimizer));
    value = before;
  };
  changes(state.values(state.parameter(0)).front());
  changes(state.values(state.norm_states().back().var).back());
  changes(optimizer->state(0)[0]);
  changes(optimizer->state(1)[0]);
  EXPECT_EQ(hashes.size(), 5U);
}

}  // namespace
}  // namespace syncbn
