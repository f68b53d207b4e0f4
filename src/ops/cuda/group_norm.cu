// Group normalization (Wu & He 2018, arXiv 1803.08494): the sweeps of batch normalization with every sample as a batch
// of its own; the kernels here combine the channels of a group between the sweeps.
//
// Minimum: as batch normalization. The steps between the sweeps access about 100 bytes per channel and sample.

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/batch_norm_channels.cuh"
#include "ops/cuda/warp.cuh"

namespace syncbn::ops::cuda {

namespace {

/// One warp for each group (x) of each sample (y): computes its statistics, and the map of its channels.
__global__ void group_map_kernel(ChannelArrays all, unsigned channels, double eps, Affine affine) {
  const ChannelArrays arrays = all.of(blockIdx.y);
  const unsigned width = channels / gridDim.x, first = blockIdx.x * width;
  double sum = 0, squares = 0;
  for (unsigned c = first + threadIdx.x; c < first + width; c += kWarp) {
    sum += arrays.message[1 + c];
    squares += arrays.message[1 + channels + c];
  }
  const double m = arrays.message[0] * width;
  const double mean = warp_sum(sum) / m, square = warp_sum(squares) / m;
  const double var = square - mean * mean;
  for (unsigned c = first + threadIdx.x; c < first + width; c += kWarp)
    derive_map(arrays, c, mean, var < square * kVarianceRounding ? 0 : var, eps, affine);
}

/// Computes the coefficients of the gradient: with g = gamma * dy, dx = invstd * (g - A / M - (x - mean) * invstd^2 * B
/// / M).
__global__ void group_gradient_kernel(ChannelArrays all, unsigned channels, double positions, Affine affine) {
  const ChannelArrays arrays = all.of(blockIdx.y);
  const unsigned width = channels / gridDim.x, first = blockIdx.x * width;
  double a = 0, b = 0;
  for (unsigned c = first + threadIdx.x; c < first + width; c += kWarp) {
    const double gamma = affine.gamma ? affine.gamma[c] : 1.0;
    a += gamma * arrays.backward_message[c];
    b += gamma * arrays.backward_message[channels + c];
  }
  a = warp_sum(a);
  b = warp_sum(b);
  const double m = positions * width;
  for (unsigned c = first + threadIdx.x; c < first + width; c += kWarp) {
    const double invstd = arrays.invstd[c], q = -invstd * invstd * invstd * b / m;
    arrays.p[c] = static_cast<float>(arrays.gain[c]);
    arrays.q[c] = static_cast<float>(q);
    arrays.r[c] = static_cast<float>(-invstd * a / m + (arrays.center[c] - arrays.mean[c]) * q);
  }
}

/// Computes d(gamma) and d(beta) of a channel; each thread of its column adds up every kRows-th sample.
constexpr unsigned kRows = 16;
__global__ void __launch_bounds__(kWarp* kRows)
    add_kernel(ChannelArrays all, unsigned channels, unsigned samples, float* d_gamma, float* d_beta) {
  __shared__ double gammas[kRows][kWarp], betas[kRows][kWarp];
  const unsigned c = blockIdx.x * kWarp + threadIdx.x;
  double gamma = 0, beta = 0;
  for (unsigned n = threadIdx.y; n < samples && c < channels; n += kRows) {
    const ChannelArrays arrays = all.of(n);
    gamma += arrays.backward_message[channels + c] * arrays.invstd[c];
    beta += arrays.backward_message[c];
  }
  gammas[threadIdx.y][threadIdx.x] = gamma;
  betas[threadIdx.y][threadIdx.x] = beta;
  __syncthreads();
  if (threadIdx.y != 0 || c >= channels) return;
  for (unsigned row = 1; row < kRows; ++row) gamma += gammas[row][threadIdx.x], beta += betas[row][threadIdx.x];
  if (d_gamma) d_gamma[c] += static_cast<float>(gamma);
  if (d_beta) d_beta[c] += static_cast<float>(beta);
}

/// Group normalization on the device; every call processes the whole batch.
class CudaGroupNormalization final : public GroupNormalization {
 public:
  CudaGroupNormalization(Queue& queue, std::int64_t channels, std::int64_t groups, double eps, std::int64_t max_samples)
      : queue_(queue),
        channels_(static_cast<unsigned>(channels)),
        groups_(static_cast<unsigned>(groups)),
        eps_(eps),
        norm_(queue, channels, eps, max_samples) {}

  void forward(const Tensor& x, const Tensor& add, const Tensor& y, Samples samples, Affine affine, FusedRelu relu,
               std::uint8_t* mask) override {
    const std::int64_t n = samples.count();
    if (n == 0) return;
    norm_.sums(x, n);
    queue_.launch("group norm: statistics", group_map_kernel, dim3(groups_, static_cast<unsigned>(n)), dim3(kWarp),
                  norm_.arrays(), channels_, eps_, affine);
    norm_.apply(x, add, y, n, relu, mask);
  }

  void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, Samples samples,
                Affine affine, FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx,
                bool accumulate_add) override {
    const std::int64_t n = samples.count();
    if (n == 0) return;
    norm_.backward_sums(x, dy, n, relu, mask);
    if (!dx && !d_add) return;
    queue_.launch("group norm: sums of the gradient", group_gradient_kernel, dim3(groups_, static_cast<unsigned>(n)),
                  dim3(kWarp), norm_.arrays(), channels_, static_cast<double>(x.shape.spatial()), affine);
    norm_.backward(x, dy, dx, d_add, n, relu, mask, accumulate_dx, accumulate_add);
  }

  void add_parameter_gradients(std::int64_t n, float* d_gamma, float* d_beta) override {
    queue_.launch("group norm: gradients of gamma and beta", add_kernel, dim3(blocks_for(channels_, kWarp)),
                  dim3(kWarp, kRows), norm_.arrays(), channels_, static_cast<unsigned>(n), d_gamma, d_beta);
  }

 private:
  Queue& queue_;
  unsigned channels_, groups_;
  double eps_;
  BatchNorm norm_;
};

}  // namespace

std::unique_ptr<GroupNormalization> make_group_normalization(Queue& queue, std::int64_t channels, std::int64_t groups,
                                                             double eps, std::int64_t max_samples) {
  return std::make_unique<CudaGroupNormalization>(queue, channels, groups, eps, max_samples);
}

}  // namespace syncbn::ops::cuda
