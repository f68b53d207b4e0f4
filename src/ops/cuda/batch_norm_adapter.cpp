#include <algorithm>
#include <map>
#include <vector>

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/batch_norm.cuh"

namespace syncbn::ops::cuda {

namespace {

/// The sweeps behind the interface that passes sums and maps in CPU memory. One set of channel arrays per number of
/// channels serves all layers, because every call passes its map.
class CudaBatchNormKernels final : public BatchNormKernels {
 public:
  explicit CudaBatchNormKernels(Queue& queue) : queue_(queue) {}

  /// Returns zeros: the device chooses pivots of its own, and reports sums about zero.
  void pivot(const Tensor& x, std::int64_t, double* pivot) const override { std::fill_n(pivot, x.shape.c(), 0.0); }

  void sums(const Tensor& x, Samples samples, const double* pivot, double* sum, double* sum_sq) const override {
    BatchNorm& norm = arrays(x);
    norm.sums(from_sample(x, samples.begin), samples.count());
    const std::int64_t c = x.shape.c();
    const std::vector<double> message = download(norm.message(), 1 + 2 * c);
    const double n = message[0];
    for (std::int64_t k = 0; k < c; ++k) {
      const double about_zero = message[static_cast<std::size_t>(1 + k)], p = pivot[k];
      sum[k] += about_zero - n * p;
      sum_sq[k] += message[static_cast<std::size_t>(1 + c + k)] - 2 * p * about_zero + n * p * p;
    }
  }

  void apply(const Tensor& x, const Tensor& add, const Tensor& y, Samples samples, const ChannelMap& map,
             FusedRelu relu, std::uint8_t* mask) const override {
    BatchNorm& norm = arrays(x);
    norm.set_map(map);
    norm.apply(from_sample(x, samples.begin), from_sample(add, samples.begin), from_sample(y, samples.begin),
               samples.count(), relu, from_sample(x, mask, samples.begin));
  }

  void backward_sums(const Tensor& x, const Tensor& dy, Samples samples, const ChannelMap& map, FusedRelu relu,
                     const std::uint8_t* mask, double* sum_dy, double* sum_dy_xc) const override {
    BatchNorm& norm = arrays(x);
    norm.set_map(map);
    norm.backward_sums(from_sample(x, samples.begin), from_sample(dy, samples.begin), samples.count(), relu,
                       from_sample(x, mask, samples.begin));
    const std::int64_t c = x.shape.c();
    const std::vector<double> message = download(norm.backward_message(), 2 * c);
    for (std::int64_t k = 0; k < c; ++k) {
      sum_dy[k] += message[static_cast<std::size_t>(k)];
      sum_dy_xc[k] += message[static_cast<std::size_t>(c + k)];
    }
  }

  void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, Samples samples,
                const ChannelMap& map, FusedRelu relu, const std::uint8_t* mask, const GradientMap& gradient,
                bool accumulate_dx, bool accumulate_add) const override {
    BatchNorm& norm = arrays(x);
    norm.set_map(map);
    norm.set_gradient(gradient);
    norm.backward(from_sample(x, samples.begin), from_sample(dy, samples.begin), from_sample(dx, samples.begin),
                  from_sample(d_add, samples.begin), samples.count(), relu, from_sample(x, mask, samples.begin),
                  accumulate_dx, accumulate_add);
  }

  std::int64_t mask_bytes_per_sample(const Tensor& x) const override { return BatchNorm::mask_bytes_per_sample(x); }

 private:
  static Tensor from_sample(const Tensor& t, std::int64_t begin) { return cuda::from_sample(t, begin); }
  template <class Byte>
  static Byte* from_sample(const Tensor& x, Byte* mask, std::int64_t begin) {
    return mask ? mask + begin * BatchNorm::mask_bytes_per_sample(x) : nullptr;
  }

  BatchNorm& arrays(const Tensor& x) const {
    auto& slot = arrays_[x.shape.c()];
    if (!slot) slot = std::make_unique<BatchNorm>(queue_, x.shape.c(), 0);
    return *slot;
  }

  std::vector<double> download(const double* from, std::int64_t count) const {
    std::vector<double> values(static_cast<std::size_t>(count));
    queue_.copy(values.data(), from, values.size() * sizeof(double), cudaMemcpyDeviceToHost);
    queue_.synchronize();
    return values;
  }

  Queue& queue_;
  mutable std::map<std::int64_t, std::unique_ptr<BatchNorm>> arrays_;
};

}  // namespace

std::unique_ptr<BatchNormKernels> make_batch_norm(Queue& queue) {
  return std::make_unique<CudaBatchNormKernels>(queue);
}

}  // namespace syncbn::ops::cuda
