#include "train/state_io.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "support/small_network.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

using ::testing::HasSubstr;

TEST(StateIo, RefusesStatisticsThatAreNone) {
  const auto backend = ops::make_cpu_backend();
  for (const std::string norm : {"batch", "whitening"}) {
    const auto message = [&](const std::function<void(ModelState&)>& change) {
      test::NetworkRun run{.counts = {1}, .norm = norm};
      ModelState good = test::small_network_state(run, *backend);
      run.change = change;
      ModelState bad = test::small_network_state(run, *backend);
      try {
        load_model(good, SafetensorsFile::parse(store_model(bad).serialize(), "my.safetensors"));
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ExitCode::bad_data);
        return std::string(e.what());
      }
      return std::string();
    };
    const auto last = [](ModelState& s, FlatRange range) -> float& { return s.values(range).back(); };
    EXPECT_EQ(message([](ModelState&) {}), "");
    EXPECT_THAT(
        message([&](ModelState& s) { last(s, s.norm_states()[0].var) = std::numeric_limits<float>::infinity(); }),
        HasSubstr("my.safetensors: tensor "));
    EXPECT_THAT(message([&](ModelState& s) { last(s, s.norm_states()[0].mean) = std::nanf(""); }),
                HasSubstr(".running_mean holds nan"));
    const std::string negative = message([&](ModelState& s) { last(s, s.norm_states()[0].var) = -0.5f; });
    EXPECT_EQ(negative != "", norm == "batch") << negative;
  }
}

}  // namespace
}  // namespace syncbn
