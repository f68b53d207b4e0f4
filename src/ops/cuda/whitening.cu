// Whitening (Huang et al. 2018, arXiv 1804.08450): sums of products of neighbouring channels, and products of small
// matrices with them, all in f64, as on the CPU. The CPU processes the sums, so each call waits.
//
// Minimum: f64 multiplications, `width` for each value and matrix. A block computes 16 x 16 products and reads its
// positions once for them; with widths of up to 16, each value is read once in all.

#include <algorithm>
#include <vector>

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/places.cuh"
#include "ops/cuda/vectors.cuh"

namespace syncbn::ops::cuda {

namespace {

constexpr unsigned kTile = 16;
constexpr unsigned kThreads = kTile * kTile;
/// Minimum number of positions per block of products, and maximum number of blocks that share those of one tile.
constexpr std::int64_t kPositions = 1024;
constexpr std::int64_t kShares = 64;

/// Computes one tile of the products of a group of channels (x), over a share of the positions of all samples (y).
/// of_shares[y] receives C sums of a - a_center, written by the first tile of a row, then C * width products.
template <class T>
__global__ void __launch_bounds__(kThreads)
    products_kernel(const T* a, const double* a_center, const T* b, const double* b_center, Places of_a, Places of_b,
                    unsigned width, unsigned positions, double* of_shares) {
  __shared__ double left[kTile][kTile + 1], right[kTile][kTile + 1];  // [position][channel]
  const unsigned tiles = (width + kTile - 1) / kTile, tile = blockIdx.x % (tiles * tiles);
  const unsigned first = blockIdx.x / (tiles * tiles) * width;
  const unsigned row = tile / tiles * kTile, column = tile % tiles * kTile;
  // With channels first, neighbouring threads read neighbouring positions; with channels last, neighbouring channels.
  const unsigned in_tile = of_a.channels_last ? threadIdx.x : threadIdx.y;
  const unsigned ahead = of_a.channels_last ? threadIdx.y : threadIdx.x;
  const std::uint64_t all = positions;
  const auto begin = static_cast<unsigned>(all * blockIdx.y / gridDim.y);
  const auto end = static_cast<unsigned>(all * (blockIdx.y + 1) / gridDim.y);

  const auto centered = [&](const T* x, const double* center, const Places& places, unsigned channel, unsigned k) {
    if (channel >= width || k >= end) return 0.0;
    const unsigned c = first + channel;
    return static_cast<double>(to_float(x[places.at(k / places.spatial, c, k % places.spatial)])) - center[c];
  };
  double sum = 0, product = 0;
  for (unsigned k = begin; k < end; k += kTile) {
    left[ahead][in_tile] = centered(a, a_center, of_a, row + in_tile, k + ahead);
    right[ahead][in_tile] = centered(b, b_center, of_b, column + in_tile, k + ahead);
    __syncthreads();
    for (unsigned p = 0; p < kTile; ++p) {
      sum += left[p][threadIdx.y];
      product = fma(left[p][threadIdx.y], right[p][threadIdx.x], product);
    }
    __syncthreads();
  }
  const unsigned i = row + threadIdx.y, j = column + threadIdx.x, channels = of_a.channels;
  if (i >= width) return;
  double* mine = of_shares + static_cast<std::size_t>(blockIdx.y) * channels * (1 + width);
  if (j == 0) mine[first + i] = sum;
  if (j < width) mine[channels + static_cast<std::size_t>(first + i) * width + j] = product;
}

/// Adds all shares to the first one, in order.
__global__ void add_shares_kernel(double* of_shares, unsigned shares, unsigned count) {
  const unsigned k = this_thread();
  if (k >= count) return;
  double sum = of_shares[k];
  for (unsigned share = 1; share < shares; ++share) sum += of_shares[static_cast<std::size_t>(share) * count + k];
  of_shares[k] = sum;
}

/// One matrix per group, applied to x - center.
template <class T>
struct TermOnDevice {
  const T* x = nullptr;
  const double *center = nullptr, *matrix = nullptr;  ///< [C], [C][width]
};

/// One thread per value of y.
template <class T>
__global__ void transform_kernel(TermOnDevice<T> first, TermOnDevice<T> second, const double* shift, T* y,
                                 Places places, unsigned width, unsigned count, bool accumulate) {
  const unsigned k = this_thread();
  if (k >= count) return;
  const Spot<1> spot(places, k);
  const unsigned group = spot.c - spot.c % width;
  double value = shift[spot.c];
  const auto add = [&](const TermOnDevice<T>& term) {
    const T* x = term.x + places.at(spot.n, group, spot.i);
    const double *center = term.center + group, *row = term.matrix + static_cast<std::size_t>(spot.c) * width;
    const std::size_t next = places.channels_last ? 1 : places.spatial;
    for (unsigned j = 0; j < width; ++j)
      value = fma(row[j], static_cast<double>(to_float(x[j * next])) - center[j], value);
  };
  add(first);
  if (second.x) add(second);
  const auto rounded = static_cast<float>(value);
  y[k] = from_float<T>(accumulate ? to_float(y[k]) + rounded : rounded);
}

class CudaWhitening final : public WhiteningKernels {
 public:
  explicit CudaWhitening(Queue& queue) : queue_(queue), coefficients_(queue) {}

  void products(const Tensor& a, const double* a_center, const Tensor& b, const double* b_center, Samples samples,
                std::int64_t width, double* sum, double* products) const override {
    const std::int64_t channels = a.shape.c(), count = channels * (1 + width);
    const std::int64_t tiles = (width + kTile - 1) / kTile;
    const unsigned positions = threads_for(samples.count() * a.shape.spatial());
    if (positions == 0) return;
    const std::int64_t shares = std::clamp<std::int64_t>(positions / kPositions, 1, kShares);
    const double* centers = upload({{a_center, channels}, {b_center, channels}});
    double* of_shares = queue_.scratch<double>(static_cast<std::size_t>(shares * count));
    visit_type(a.type, [&](auto value) {
      using T = decltype(value);
      queue_.launch("whitening: products", products_kernel<T>,
                    dim3(threads_for(channels / width * tiles * tiles), static_cast<unsigned>(shares)),
                    dim3(kTile, kTile), from_sample(a, samples.begin).template as<const T>(), centers,
                    from_sample(b, samples.begin).template as<const T>(), centers + channels, Places(a), Places(b),
                    static_cast<unsigned>(width), positions, of_shares);
    });
    queue_.launch("whitening: sum of the products", add_shares_kernel, blocks_for(count, kThreads), kThreads, of_shares,
                  static_cast<unsigned>(shares), threads_for(count));
    std::vector<double> result(static_cast<std::size_t>(count));
    queue_.copy(result.data(), of_shares, result.size() * sizeof(double), cudaMemcpyDeviceToHost);
    queue_.synchronize();
    for (std::int64_t k = 0; k < channels; ++k) sum[k] += result[static_cast<std::size_t>(k)];
    for (std::int64_t k = 0; k < channels * width; ++k) products[k] += result[static_cast<std::size_t>(channels + k)];
  }

  void transform(const std::vector<Term>& terms, const double* shift, const Tensor& y, Samples samples,
                 std::int64_t width, bool accumulate) const override {
    const std::int64_t channels = y.shape.c(), square = channels * width;
    if (terms.empty() || terms.size() > 2) throw std::logic_error("whitening on a device takes one or two terms");
    std::vector<Part> parts = {{shift, channels}};
    for (const Term& term : terms) {
      if (Places(term.x) != Places(y)) throw std::logic_error("whitening on a device wants one layout");
      parts.insert(parts.end(), {{term.center, channels}, {term.matrix, square}});
    }
    const double* coefficients = upload(parts);
    const unsigned count = threads_for(samples.count() * y.sample_stride());
    visit_type(y.type, [&](auto value) {
      using T = decltype(value);
      TermOnDevice<T> on_device[2];
      for (std::size_t k = 0; k < terms.size(); ++k) {
        const double* center = coefficients + channels + static_cast<std::int64_t>(k) * (channels + square);
        on_device[k] = {from_sample(terms[k].x, samples.begin).template as<const T>(), center, center + channels};
      }
      queue_.launch("whitening", transform_kernel<T>, blocks_for(count, kThreads), kThreads, on_device[0], on_device[1],
                    coefficients, from_sample(y, samples.begin).template as<T>(), Places(y),
                    static_cast<unsigned>(width), count, accumulate);
    });
  }

 private:
  /// `count` values, to be copied one part after the other.
  struct Part {
    const double* values;
    std::int64_t count;
  };
  /// Copies the parts to the device, one after the other.
  const double* upload(const std::vector<Part>& parts) const {
    std::vector<double> joined;
    for (const Part& part : parts) joined.insert(joined.end(), part.values, part.values + part.count);
    return coefficients_.upload(joined.data(), joined.size());
  }

  Queue& queue_;
  mutable Staging<double> coefficients_;
};

}  // namespace

std::unique_ptr<WhiteningKernels> make_whitening(Queue& queue) {
  return std::make_unique<CudaWhitening>(queue);
}

}  // namespace syncbn::ops::cuda
