#include <cstring>

#include "ops/cpu/batch_norm_sweeps.hpp"
#include "ops/cpu/factories.hpp"

namespace syncbn::ops {
namespace {

Memory allocate_here(std::size_t bytes) {
  auto buffer = std::make_shared<Buffer>(bytes);
  return {std::shared_ptr<std::byte>(buffer, buffer->data()), bytes};
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(Allocate allocate) : allocate_(std::move(allocate)) {}

  std::unique_ptr<Backend> for_worker(bool) const override { return make_cpu_backend(); }
  Memory allocate(std::size_t bytes) const override { return allocate_(bytes); }
  void upload(const void* from, void* to, std::size_t bytes) const override { copy(from, to, bytes); }
  void download(const void* from, void* to, std::size_t bytes) const override { copy(from, to, bytes); }
  std::string description() const override { return "cpu: " + cpu::vector_target() + ", " + cpu::onednn_version(); }
  Layout preferred_layout(std::int64_t channels) const override { return cpu::preferred_layout(channels); }
  void prepare_thread() const override {}
  const BatchNormKernels& batch_norm() const override { return *batch_norm_; }
  const Elementwise& elementwise() const override { return *elementwise_; }
  const WhiteningKernels& whitening() const override { return *whitening_; }
  std::unique_ptr<GroupNormalization> group_normalization(std::int64_t channels, std::int64_t groups, double eps,
                                                          std::int64_t max_samples) const override {
    return cpu::make_group_normalization(*batch_norm_, channels, groups, eps, max_samples);
  }
  std::unique_ptr<Conv2dWeights> conv2d_weights(const Conv2dGeometry& g) const override {
    return cpu::make_conv2d_weights(g, allocate_);
  }
  std::unique_ptr<Conv2d> conv2d(const Conv2dGeometry& g) const override { return cpu::make_conv2d(g); }
  std::unique_ptr<Linear> linear(std::int64_t in, std::int64_t out, bool bias) const override {
    return cpu::make_linear(in, out, bias);
  }
  std::unique_ptr<Pool> pool(const PoolGeometry& g) const override { return cpu::make_pool(g); }

 private:
  static void copy(const void* from, void* to, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }

  const Allocate allocate_;
  std::unique_ptr<BatchNormKernels> batch_norm_ = cpu::make_batch_norm_kernels();
  std::unique_ptr<Elementwise> elementwise_ = cpu::make_elementwise();
  std::unique_ptr<WhiteningKernels> whitening_ = cpu::make_whitening_kernels();
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(Allocate allocate) {
  return std::make_unique<CpuBackend>(allocate ? std::move(allocate) : allocate_here);
}

}  // namespace syncbn::ops
