#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "ops/cpu/factories.hpp"
#include "ops/cpu/panels.hpp"

namespace syncbn::ops::cpu {
namespace {

/// Channels [first, first + width) of one sample as rows of f64, centered.
void gather(const Tensor& x, std::int64_t sample, std::int64_t first, std::int64_t width, const double* center,
            double* rows) {
  const Panels p(x);
  for (std::int64_t c = first; c < first + width; ++c) {
    const float* in = x.sample(sample) + p.offset(c, 0);
    for (std::int64_t i = 0; i < p.positions; ++i, in += p.width) *rows++ = static_cast<double>(*in) - center[c];
  }
}

/// In one order, whatever the alignment: eight sums side by side.
double dot(const double* a, const double* b, std::int64_t n) {
  std::array<double, 8> lanes{};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (std::size_t k = 0; k < 8; ++k)
      lanes[k] += a[static_cast<std::size_t>(i) + k] * b[static_cast<std::size_t>(i) + k];
  }
  double sum = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

class CpuWhitening final : public WhiteningKernels {
 public:
  void products(const Tensor& a, const double* a_center, const Tensor& b, const double* b_center, Samples samples,
                std::int64_t width, double* sum, double* products) const override {
    const std::int64_t positions = a.shape.spatial(), channels = a.shape.c();
    const bool symmetric = a.data == b.data && a_center == b_center;
    const auto size = static_cast<std::size_t>(width * positions);
    std::vector<double> left(size), right(symmetric ? 0 : size);
    const std::vector<double> ones(static_cast<std::size_t>(positions), 1.0);
    for (std::int64_t n = samples.begin; n < samples.end; ++n) {
      for (std::int64_t first = 0; first < channels; first += width) {
        gather(a, n, first, width, a_center, left.data());
        if (!symmetric) gather(b, n, first, width, b_center, right.data());
        const double* other = symmetric ? left.data() : right.data();
        double* block = products + first * width;
        for (std::int64_t i = 0; i < width; ++i) {
          const double* row = left.data() + i * positions;
          sum[first + i] += dot(row, ones.data(), positions);
          for (std::int64_t j = 0; j < (symmetric ? i + 1 : width); ++j) {
            const double product = dot(row, other + j * positions, positions);
            block[i * width + j] += product;
            if (symmetric && j < i) block[j * width + i] += product;
          }
        }
      }
    }
  }

  void transform(const std::vector<Term>& terms, const double* shift, const Tensor& y, Samples samples,
                 std::int64_t width, bool accumulate) const override {
    const Panels p(y);
    std::vector<double> in(static_cast<std::size_t>(width * p.positions)), out(in.size());
    for (std::int64_t n = samples.begin; n < samples.end; ++n) {
      for (std::int64_t first = 0; first < p.channels; first += width) {
        for (std::int64_t i = 0; i < width; ++i) {
          std::fill_n(out.begin() + i * p.positions, p.positions, shift[first + i]);
        }
        for (const Term& term : terms) {
          gather(term.x, n, first, width, term.center, in.data());
          multiply(term.matrix + first * width, in.data(), width, p.positions, out.data());
        }
        scatter(out.data(), p, first, width, y.sample(n), accumulate);
      }
      if (p.padded() && !accumulate) clear_padding(p, y.sample(n));
    }
  }

 private:
  /// out += matrix * in
  static void multiply(const double* matrix, const double* in, std::int64_t width, std::int64_t positions,
                       double* out) {
    for (std::int64_t i = 0; i < width; ++i) {
      double* to = out + i * positions;
      for (std::int64_t j = 0; j < width; ++j) {
        const double factor = matrix[i * width + j];
        const double* from = in + j * positions;
        for (std::int64_t k = 0; k < positions; ++k) to[k] += factor * from[k];
      }
    }
  }

  static void scatter(const double* rows, const Panels& p, std::int64_t first, std::int64_t width, float* sample,
                      bool accumulate) {
    for (std::int64_t c = first; c < first + width; ++c) {
      float* to = sample + p.offset(c, 0);
      for (std::int64_t i = 0; i < p.positions; ++i, to += p.width) {
        const auto value = static_cast<float>(*rows++);
        *to = accumulate ? *to + value : value;
      }
    }
  }

  static void clear_padding(const Panels& p, float* sample) {
    for (std::int64_t c = p.channels; c < p.count * p.width; ++c) {
      for (std::int64_t i = 0; i < p.positions; ++i) sample[p.offset(c, i)] = 0;
    }
  }
};

}  // namespace

std::unique_ptr<WhiteningKernels> make_whitening_kernels() {
  return std::make_unique<CpuWhitening>();
}

}  // namespace syncbn::ops::cpu
