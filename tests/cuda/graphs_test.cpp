// What queues are given while they are captured, and the graphs that repeat it.

#include <gtest/gtest.h>

#include "cuda/on_device.hpp"
#include "ops/cuda/adapters.cuh"
#include "ops/device.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::test {
namespace {

namespace cuda = ops::cuda;

class CudaGraphs : public ::testing::Test {
 protected:
  std::vector<float> filled(float value) const { return std::vector<float>(kCount, value); }
  DeviceArray<float> array(float value) { return {first_queue, filled(value)}; }
  /// to += what, on one of the devices.
  static void add(const ops::Device& device, const DeviceArray<float>& what, const DeviceArray<float>& to) {
    device.add(to.data(), what.data(), to.data(), kCount);
  }

  static constexpr std::int64_t kCount = 1000;
  cuda::Queue first_queue{0}, second_queue{0};
  std::unique_ptr<ops::Device> first = cuda::make_device(first_queue), second = cuda::make_device(second_queue);
};

TEST_F(CudaGraphs, RepeatWhatTwoQueuesWereGiven) {
  const DeviceArray<float> one = array(1), x = array(0), y = array(10), sum = array(0);
  const auto begun = first->make_mark(), done = second->make_mark();
  first->begin_capture();
  first->set(*begun);
  second->follow(*begun);
  add(*first, one, x);
  add(*second, one, y);
  second->set(*done);
  first->follow(*done);
  add(*first, x, sum);
  add(*first, y, sum);
  const std::unique_ptr<ops::Graph> graph = first->end_capture();
  EXPECT_EQ(x.get(), filled(0)) << "captured, not done";
  for (int i = 0; i < 3; ++i) first->launch(*graph);
  add(*first, one, sum);  // behind them
  EXPECT_EQ(x.get(), filled(3));
  EXPECT_EQ(y.get(), filled(13));
  EXPECT_EQ(sum.get(), filled(1 + 2 + 3 + 11 + 12 + 13 + 1));
  EXPECT_TRUE(graph->valid());
}

TEST_F(CudaGraphs, AreNotValidOnceScratchMemoryHasMoved) {
  const DeviceArray<float> one = array(1), x = array(0);
  second_queue.scratch<float>(10);
  first->begin_capture();
  add(*first, one, x);
  const std::unique_ptr<ops::Graph> graph = first->end_capture();
  second_queue.scratch<float>(10);
  EXPECT_TRUE(graph->valid());
  second_queue.scratch<float>(1000);  // of whichever queue: graphs may be of several
  EXPECT_FALSE(graph->valid());
}

TEST_F(CudaGraphs, ACaptureThatIsNotBroughtTogetherIsRefusedWithAWayOut) {
  const DeviceArray<float> one = array(1), x = array(0);
  const auto begun = first->make_mark();
  first->begin_capture();
  first->set(*begun);
  second->follow(*begun);
  add(*second, one, x);
  try {
    first->end_capture();
    FAIL();
  } catch (const DeviceError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("CUDA: ending a capture: "), std::string::npos) << text;
    EXPECT_NE(text.find("cuda_graphs=false"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace syncbn::test
