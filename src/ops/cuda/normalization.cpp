#include "ops/cuda/adapters.cuh"
#include "ops/cuda/batch_norm.cuh"

namespace syncbn::ops::cuda {

namespace {

/// A message on its way to the processor and back.
class Message {
 public:
  Message(Queue& queue, std::int64_t count)
      : queue_(queue),
        count_(static_cast<std::size_t>(count)),
        here_(queue, count_ * sizeof(double)),
        group_(queue, count_ * sizeof(double)) {}

  void fetch(const double* from) {
    queue_.copy(here_.as<void>(), from, count_ * sizeof(double), cudaMemcpyDeviceToHost);
    queue_.record(arrived_);
  }
  std::span<double> wait() {
    arrived_.wait();
    return {here_.as<double>(), count_};
  }
  /// In device memory, what the processor has made of it. The next fetch() is behind this copy.
  const double* give_back() {
    queue_.copy(group_.as<void>(), here_.as<void>(), count_ * sizeof(double), cudaMemcpyHostToDevice);
    return group_.as<double>();
  }
  const double* group() const { return group_.as<double>(); }

 private:
  Queue& queue_;
  std::size_t count_;
  PinnedMemory here_;
  DeviceMemory group_;
  Event arrived_;
};

class CudaNormalization final : public Normalization {
 public:
  CudaNormalization(Queue& queue, std::int64_t channels, double eps)
      : queue_(queue), norm_(queue, channels, eps), forward_(queue, 1 + 2 * channels), backward_(queue, 2 * channels) {}

  void sums(const Tensor& x, std::int64_t n, bool alone, Affine affine) override {
    alone ? norm_.sums_alone(x, n, affine) : norm_.sums(x, n);
  }
  void fetch() override { forward_.fetch(norm_.message()); }
  std::span<double> message() override { return forward_.wait(); }
  void finish(Affine affine) override { norm_.finish(forward_.give_back(), affine); }
  void statistics(std::span<double> mean, std::span<double> var) override {
    queue_.copy(mean.data(), norm_.arrays().mean, mean.size_bytes(), cudaMemcpyDeviceToHost);
    queue_.copy(var.data(), norm_.arrays().var, var.size_bytes(), cudaMemcpyDeviceToHost);
    queue_.synchronize();
  }
  void use_statistics(const float* mean, const float* var, Affine affine) override {
    norm_.use_statistics(mean, var, affine);
  }
  void apply(const Tensor& x, const Tensor& add, const Tensor& y, std::int64_t n, FusedRelu relu,
             std::uint8_t* mask) override {
    norm_.apply(x, add, y, n, relu, mask);
  }
  void fold_statistics(double momentum, double share, float* mean, float* var, float* kept, float kept_value) override {
    norm_.fold_statistics(momentum, share, mean, var, kept, kept_value);
  }

  void backward_sums(const Tensor& x, const Tensor& dy, std::int64_t n, FusedRelu relu, const std::uint8_t* mask,
                     bool alone) override {
    alone ? norm_.backward_sums_alone(x, dy, n, relu, mask) : norm_.backward_sums(x, dy, n, relu, mask);
    alone_ = alone;
  }
  void fetch_backward() override { backward_.fetch(norm_.backward_message()); }
  std::span<double> backward_message() override { return backward_.wait(); }
  void finish_backward() override { norm_.finish_backward(backward_.give_back()); }
  void add_parameter_gradients(bool of_group, float* d_gamma, float* d_beta) override {
    const double* sums = of_group && !alone_ ? backward_.group() : norm_.backward_message();
    norm_.add_parameter_gradients(sums, d_gamma, d_beta);
  }
  void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, std::int64_t n,
                FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add) override {
    norm_.backward(x, dy, dx, d_add, n, relu, mask, accumulate_dx, accumulate_add);
  }

 private:
  Queue& queue_;
  BatchNorm norm_;
  Message forward_, backward_;
  bool alone_ = false;
};

}  // namespace

std::unique_ptr<Normalization> make_normalization(Queue& queue, std::int64_t channels, double eps) {
  return std::make_unique<CudaNormalization>(queue, channels, eps);
}

}  // namespace syncbn::ops::cuda
