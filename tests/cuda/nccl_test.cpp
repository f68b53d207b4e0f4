// NCCL with a single rank, so that its calls are made where there is one device. The modules are those that
// $SYNCBN_CUDA_MODULE and $SYNCBN_NCCL_MODULE name (launch/gpu-check names the real ones), else the stand-ins.

#include <gtest/gtest.h>
#include <stdlib.h>

#include <numeric>
#include <thread>

#include "comm/devices/nccl_module.hpp"
#include "ops/backend.hpp"
#include "ops/device.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::test {
namespace {

class Nccl : public ::testing::Test {
 protected:
  Nccl() {
    ::setenv("SYNCBN_CUDA_MODULE", STAND_IN_MODULE, /*overwrite=*/0);
    ::setenv("SYNCBN_NCCL_MODULE", STAND_IN_NCCL, /*overwrite=*/0);
    module_ = detail::open_nccl_module();
    cuda_ = ops::make_cuda_backend(0);
  }

  void SetUp() override { ASSERT_EQ(module_.problem, ""); }

  std::unique_ptr<DevicePeers> connect() {
    std::string id;
    module_.make_id(&id);
    const ops::Device& device = *cuda_->device();
    return std::unique_ptr<DevicePeers>(module_.connect(id, 0, 1, device.index(), device.native_queue(), kTimeout_s));
  }

  static void wait_until_queued(DevicePeers& peers) {
    while (!peers.queued()) std::this_thread::yield();
  }

  static constexpr double kTimeout_s = 60;
  detail::NcclModule module_;
  std::unique_ptr<ops::Backend> cuda_;
};

TEST_F(Nccl, ExchangesAndSumsInTheOrderOfTheQueue) {
  std::vector<float> values(10'000);
  std::iota(values.begin(), values.end(), 0.5f);
  const std::size_t bytes = values.size() * sizeof(float);
  const ops::Memory from = cuda_->allocate(bytes), to = cuda_->allocate(bytes), sum = cuda_->allocate(bytes);
  const auto peers = connect();
  const auto count = static_cast<std::int64_t>(values.size());

  cuda_->upload(values.data(), from.data(), bytes);
  // In two parts, which arrive in the order of the calls.
  const std::vector<DevicePeers::Transfer> sends = {{0, from.as<float>(), 400},
                                                    {0, from.as<float>() + 100, bytes - 400}};
  const std::vector<DevicePeers::Transfer> receives = {{0, to.as<float>(), 400},
                                                       {0, to.as<float>() + 100, bytes - 400}};
  peers->exchange(sends, receives);
  wait_until_queued(*peers);
  cuda_->device()->add(to.as<float>(), from.as<float>(), sum.as<float>(), count);
  peers->all_reduce(sum.as<float>(), count);
  wait_until_queued(*peers);

  std::vector<float> received(values.size());
  cuda_->download(to.data(), received.data(), bytes);
  EXPECT_EQ(received, values);
  cuda_->download(sum.data(), received.data(), bytes);
  for (float& v : values) v *= 2;
  EXPECT_EQ(received, values);
  cuda_->device()->finish();
}

TEST_F(Nccl, RefusesAnIdThatIsNone) {
  const ops::Device& device = *cuda_->device();
  EXPECT_THROW(module_.connect("not an id", 0, 1, device.index(), device.native_queue(), kTimeout_s), Error);
}

}  // namespace
}  // namespace syncbn::test
