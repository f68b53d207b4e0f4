#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <vector>

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/kernels.cuh"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cuda {

namespace {

class CudaElementwise final : public Elementwise {
 public:
  explicit CudaElementwise(Queue& queue) : queue_(queue), ids_(queue) {}

  void activate(Activation kind, float slope, const Tensor& x, const Tensor& y, Samples s) const override {
    cuda::activate(queue_, kind, slope, at(x, s), at(y, s), s.count());
  }
  void activate_backward(Activation kind, float slope, const Tensor& y, const Tensor& dy, const Tensor& dx, Samples s,
                         bool accumulate) const override {
    cuda::activate_backward(queue_, kind, slope, at(y, s), at(dy, s), at(dx, s), s.count(), accumulate);
  }
  void add(const Tensor& a, const Tensor& b, const Tensor& y, Samples s) const override {
    cuda::add(queue_, at(a, s), at(b, s), at(y, s), s.count());
  }
  void copy(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const override {
    cuda::copy(queue_, at(x, s), at(y, s), s.count(), accumulate);
  }
  void dropout(const Tensor& x, const Tensor& y, Samples s, float p, std::uint64_t seed, std::uint64_t step,
               std::uint64_t layer_key, const std::int64_t* sample_ids, bool accumulate) const override {
    if (s.count() == 0) return;
    const std::span given(sample_ids + s.begin, static_cast<std::size_t>(s.count()));
    if (!std::equal(given.begin(), given.end(), sent_.begin(), sent_.end())) {  // the same for every layer of a batch
      sent_.assign(given.begin(), given.end());
      ids_.upload(sent_.data(), sent_.size());
    }
    const std::int64_t* ids = ids_.room(sent_.size());
    cuda::dropout(queue_, at(x, s), at(y, s), s.count(), p, seed, step, layer_key, ids, accumulate);
  }
  void global_average(const Tensor& x, const Tensor& y, Samples s) const override {
    cuda::global_average(queue_, at(x, s), at(y, s), s.count());
  }
  void global_average_backward(const Tensor& dy, const Tensor& dx, Samples s, bool accumulate) const override {
    cuda::global_average_backward(queue_, at(dy, s), at(dx, s), s.count(), accumulate);
  }
  void look_up(const std::uint8_t* bytes, const float* values, const Tensor& y, Samples s) const override {
    const std::int64_t per_sample = y.shape.c() * y.shape.spatial();
    cuda::look_up(queue_, bytes + s.begin * per_sample, values, at(y, s), s.count());
  }
  void reorder(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const override {
    cuda::reorder(queue_, at(x, s), at(y, s), s.count(), accumulate);
  }

 private:
  static Tensor at(const Tensor& t, Samples s) { return from_sample(t, s.begin); }
  Queue& queue_;
  mutable std::vector<std::int64_t> sent_;
  mutable Staging<std::int64_t> ids_;
};

class CudaPool final : public Pool {
 public:
  CudaPool(Queue& queue, const PoolGeometry& g) : queue_(queue), geometry_(g) {
    constexpr std::int64_t kLargest = 16;  // so that a place in a window fits a byte
    if (g.kind == PoolKind::max && g.kernel > kLargest)
      throw Error(fmt::format("device: cuda: max pooling with a kernel of {0}x{0}: at most {1}x{1} are possible; use a "
                              "smaller kernel, or device: cpu",
                              g.kernel, kLargest),
                  ExitCode::usage);
  }
  std::int64_t workspace_bytes_per_sample() const override {
    return geometry_.kind == PoolKind::max ? geometry_.c * geometry_.h_out * geometry_.w_out : 0;
  }
  void forward(const Tensor& x, const Tensor& y, std::uint8_t* workspace, Samples s) override {
    cuda::pool(queue_, geometry_, from_sample(x, s.begin), from_sample(y, s.begin), places(workspace, s), s.count());
  }
  void backward(const Tensor& dy, const Tensor& dx, const std::uint8_t* workspace, Samples s,
                bool accumulate) override {
    cuda::pool_backward(queue_, geometry_, from_sample(dy, s.begin), from_sample(dx, s.begin), places(workspace, s),
                        s.count(), accumulate);
  }

 private:
  template <class Byte>
  Byte* places(Byte* workspace, Samples s) const {
    return workspace ? workspace + s.begin * workspace_bytes_per_sample() : nullptr;
  }
  Queue& queue_;
  PoolGeometry geometry_;
};

}  // namespace

std::unique_ptr<Elementwise> make_elementwise(Queue& queue) {
  return std::make_unique<CudaElementwise>(queue);
}
std::unique_ptr<Pool> make_pool(Queue& queue, const PoolGeometry& g) {
  return std::make_unique<CudaPool>(queue, g);
}

}  // namespace syncbn::ops::cuda
