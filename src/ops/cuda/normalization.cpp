#include "ops/cuda/adapters.cuh"
#include "ops/cuda/batch_norm.cuh"

namespace syncbn::ops::cuda {

namespace {

class CudaNormalization final : public Normalization {
 public:
  CudaNormalization(Queue& queue, std::int64_t channels, double eps) : queue_(queue), norm_(queue, channels, eps) {}

  void sums(const Tensor& x, std::int64_t n, bool alone, Affine affine) override {
    alone ? norm_.sums_alone(x, n, affine) : norm_.sums(x, n);
  }
  const double* message() const override { return norm_.message(); }
  void finish(const double* group, Affine affine) override { norm_.finish(group, affine); }
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
  }
  const double* backward_message() const override { return norm_.backward_message(); }
  void finish_backward(const double* group) override { norm_.finish_backward(group); }
  void add_parameter_gradients(const double* sums, float* d_gamma, float* d_beta) override {
    norm_.add_parameter_gradients(sums, d_gamma, d_beta);
  }
  void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, std::int64_t n,
                FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add) override {
    norm_.backward(x, dy, dx, d_add, n, relu, mask, accumulate_dx, accumulate_add);
  }

 private:
  Queue& queue_;
  BatchNorm norm_;
};

}  // namespace

std::unique_ptr<Normalization> make_normalization(Queue& queue, std::int64_t channels, double eps) {
  return std::make_unique<CudaNormalization>(queue, channels, eps);
}

}  // namespace syncbn::ops::cuda
