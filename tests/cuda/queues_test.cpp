// Queues that work side by side.

#include <gtest/gtest.h>

#include <array>

#include "cuda/on_device.hpp"
#include "ops/cuda/adapters.cuh"
#include "ops/device.hpp"

namespace syncbn::test {
namespace {

// A copy that came too early, or too late, would be seen in some of many rounds.
TEST(CudaQueues, AnUploadAheadComesBehindTheLastReaderAndBeforeTheNext) {
  constexpr std::int64_t kCount = 1000;
  constexpr int kRounds = 100;
  ops::cuda::Queue queue(0);
  const auto device = ops::cuda::make_device(queue);
  const DeviceArray<float> sum(queue, std::vector<float>(kCount, 0));
  const std::array places = {DeviceArray<float>(queue, kCount), DeviceArray<float>(queue, kCount)};
  const std::array read = {device->make_mark(), device->make_mark()};
  for (const auto& mark : read) device->set(*mark);
  float expected = 0;
  std::vector<float> values(kCount);
  for (int round = 0; round < kRounds; ++round) {
    const auto place = static_cast<std::size_t>(round % 2);
    values.assign(kCount, static_cast<float>(round));
    expected += static_cast<float>(round);
    device->upload_ahead(values.data(), places[place].data(), kCount * sizeof(float), *read[place]);
    device->add(sum.data(), places[place].data(), sum.data(), kCount);
    device->set(*read[place]);
  }
  EXPECT_EQ(sum.get(), std::vector<float>(kCount, expected));
}

}  // namespace
}  // namespace syncbn::test
