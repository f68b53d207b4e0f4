// Optimizers on a device against the same on the processor.

#include <gtest/gtest.h>

#include <cmath>

#include "cuda/on_device.hpp"
#include "ops/cuda/module.hpp"
#include "syncbn/core/random.hpp"
#include "train/device_optimizer.hpp"

namespace syncbn::test {
namespace {

constexpr std::int64_t kSize = 6000;
constexpr float kPadding = 7;  // what no parameter covers

const std::vector<ParameterSlot> kSlots = {
    {"first", 0, 1000, false}, {"bias", 1008, 10, true}, {"large", 1040, 4321, false}, {"zero", 5376, 64, false}};

std::vector<float> values(std::uint64_t seed, float elsewhere) {
  std::vector<float> all(kSize, elsewhere);
  Random random(seed, Purpose::test);
  for (const ParameterSlot& slot : kSlots) {
    for (std::int64_t i = 0; i < slot.count; ++i) {
      all[static_cast<std::size_t>(slot.offset + i)] = slot.name == "zero" ? 0 : static_cast<float>(random.normal());
    }
  }
  return all;
}

class DeviceUpdates : public ::testing::Test {
 protected:
  /// Five updates by both.
  void compare(const OptimizerOptions& options, double tolerance) {
    SCOPED_TRACE(options.name);
    const auto cpu = make_optimizer(options, kSlots, kSize), device = make_optimizer(options, kSlots, kSize, *cuda);
    std::vector<float> want = values(1, kPadding);
    const FlatBuffer parameters(*cuda, kSize), gradient(*cuda, kSize);
    std::copy(want.begin(), want.end(), parameters.host().begin());
    parameters.send();
    for (std::uint64_t step = 1; step <= 5; ++step) {
      const std::vector<float> g = values(10 + step, 3);
      std::copy(g.begin(), g.end(), gradient.host().begin());
      gradient.send();
      cpu->update(want, g, 0.1, 0.5, 0, 1);
      device->update(parameters.kernels(), gradient.kernels(), 0.1, 0.5, 0, 1);
      for (const auto& optimizer : {cpu.get(), device.get()}) optimizer->count_update();
    }
    parameters.fetch();
    expect_near(parameters.host(), want, tolerance, "parameters");
    device->fetch_state();
    ASSERT_EQ(device->state_names(), cpu->state_names());
    for (int i = 0; i < static_cast<int>(cpu->state_names().size()); ++i) {
      expect_near(device->state(i), cpu->state(i), tolerance, "state");
    }
  }

  static void expect_near(std::span<const float> got, std::span<const float> want, double tolerance, const char* what) {
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_LE(std::abs(got[i] - want[i]), tolerance * (1 + std::abs(want[i]))) << what << " " << i;
    }
  }

  std::unique_ptr<ops::Backend> cuda{syncbn_cuda_backend(0, {})};
};

TEST_F(DeviceUpdates, SgdHasTheBitsOfTheCpu) {
  for (const bool nesterov : {false, true}) {
    OptimizerOptions options;
    options.nesterov = nesterov;
    options.weight_decay = 0.01;
    compare(options, 0);
  }
  OptimizerOptions plain;
  plain.momentum = 0;
  compare(plain, 0);
}

// Roots of the CPU's vector code are not always rounded exactly.
TEST_F(DeviceUpdates, AllRulesEqualTheCpu) {
  for (const char* name : {"adagrad", "adam", "adamw", "lars", "lamb"}) {
    for (const bool everywhere : {false, true}) {
      OptimizerOptions options;
      options.name = name;
      options.weight_decay = 0.01;
      options.decay_norm_and_bias = everywhere;
      compare(options, 2e-6);
    }
  }
}

TEST_F(DeviceUpdates, SquaresOfEachParameter) {
  OptimizerOptions options;
  const auto cpu = make_optimizer(options, kSlots, kSize), device = make_optimizer(options, kSlots, kSize, *cuda);
  const FlatBuffer gradient(*cuda, kSize);
  const std::vector<float> g = values(3, 5);
  std::copy(g.begin(), g.end(), gradient.host().begin());
  gradient.send();
  std::vector<double> want(kSlots.size()), got(kSlots.size());
  cpu->squares(g, want, 0, 1);
  device->squares(gradient.kernels(), got, 0, 1);
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-12 * want[i]) << i;
}

TEST_F(DeviceUpdates, StateGoesToACheckpointAndBack) {
  OptimizerOptions options;
  const auto first = make_optimizer(options, kSlots, kSize, *cuda),
             second = make_optimizer(options, kSlots, kSize, *cuda);
  FlatBuffer a(*cuda, kSize), b(*cuda, kSize), gradient(*cuda, kSize);
  const std::vector<float> g = values(4, 0);
  std::copy(g.begin(), g.end(), gradient.host().begin());
  gradient.send();
  first->update(a.kernels(), gradient.kernels(), 0.1, 1, 0, 1);
  first->fetch_state();
  a.fetch();
  std::copy(first->state(0).begin(), first->state(0).end(), second->state(0).begin());
  std::copy(a.host().begin(), a.host().end(), b.host().begin());
  second->send_state();
  b.send();
  first->update(a.kernels(), gradient.kernels(), 0.1, 1, 0, 1);
  second->update(b.kernels(), gradient.kernels(), 0.1, 1, 0, 1);
  a.fetch();
  b.fetch();
  EXPECT_TRUE(std::equal(a.host().begin(), a.host().end(), b.host().begin()));
}

}  // namespace
}  // namespace syncbn::test
