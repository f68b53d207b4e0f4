// The backend interface, implemented on a device.

#include <fmt/format.h>

#include <vector>

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/module.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cuda {

namespace {

int devices() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "counting devices");
  return count;
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, Precision precision, bool urgent = false)
      : precision_(precision),
        queue_(device, urgent),
        libraries_(queue_),
        device_(make_device(queue_)),
        batch_norm_(make_batch_norm(queue_)),
        whitening_(make_whitening(queue_)),
        elementwise_(make_elementwise(queue_)) {}

  std::unique_ptr<Backend> for_worker(bool urgent) const override {
    return std::make_unique<CudaBackend>(queue_.device(), precision_, urgent);
  }
  Memory allocate(std::size_t bytes) const override {
    auto memory = std::make_shared<DeviceMemory>(queue_, bytes);
    queue_.synchronize();  // other queues may use the memory
    return {std::shared_ptr<std::byte>(memory, memory->as<std::byte>()), bytes};
  }
  void upload(const void* from, void* to, std::size_t bytes) const override { queue_.upload(to, from, bytes); }
  void download(const void* from, void* to, std::size_t bytes) const override {
    queue_.copy(to, from, bytes, cudaMemcpyDeviceToHost);
    queue_.synchronize();
  }
  const Device* device() const override { return device_.get(); }

  std::string description() const override {
    cudaDeviceProp device{};
    check(cudaGetDeviceProperties(&device, queue_.device()), "asking what the device is");
    return fmt::format("cuda: {}, {}", device.name, cudnn_version());
  }
  DataType activation_type() const override { return precision_.type; }
  Layout preferred_layout(std::int64_t) const override { return Layout::channels_last; }
  void prepare_thread() const override { check(cudaSetDevice(queue_.device()), "choosing the device"); }
  const BatchNormKernels& batch_norm() const override { return *batch_norm_; }
  const WhiteningKernels& whitening() const override { return *whitening_; }
  const Elementwise& elementwise() const override { return *elementwise_; }
  std::unique_ptr<GroupNormalization> group_normalization(std::int64_t channels, std::int64_t groups, double eps,
                                                          std::int64_t max_samples) const override {
    return make_group_normalization(queue_, channels, groups, eps, max_samples);
  }
  std::unique_ptr<Conv2dWeights> conv2d_weights(const Conv2dGeometry& g) const override {
    return make_conv2d_weights(queue_, g, precision_.type);
  }
  std::unique_ptr<ops::Conv2d> conv2d(const Conv2dGeometry& g) const override {
    return make_conv2d(libraries_, g, precision_);
  }
  std::unique_ptr<ops::Linear> linear(std::int64_t in, std::int64_t out, bool) const override {
    return make_linear(libraries_, in, out, precision_);
  }
  std::unique_ptr<Pool> pool(const PoolGeometry& g) const override { return make_pool(queue_, g); }

 private:
  Precision precision_;
  mutable Queue queue_;
  mutable Libraries libraries_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<BatchNormKernels> batch_norm_;
  std::unique_ptr<WhiteningKernels> whitening_;
  std::unique_ptr<Elementwise> elementwise_;
};

}  // namespace

}  // namespace syncbn::ops::cuda

syncbn::ops::Backend* syncbn_cuda_backend(int local_rank, syncbn::ops::Precision precision) {
  using namespace syncbn::ops::cuda;
  const int device = local_rank % devices();
  cudaDeviceProp chosen{};
  check(cudaGetDeviceProperties(&chosen, device), "asking what the device is");
  if (chosen.major < kOldestMajor)
    throw syncbn::Error(fmt::format("device: cuda: device {} ({}) is too old: its compute capability is {}.{}, {}.0 is "
                                    "needed; leave it out by CUDA_VISIBLE_DEVICES",
                                    device, chosen.name, chosen.major, chosen.minor, kOldestMajor),
                        syncbn::ExitCode::unavailable);
  return new CudaBackend(device, precision);
}
