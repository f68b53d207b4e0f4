#include <algorithm>
#include <vector>

#include "ops/cpu/factories.hpp"
#include "ops/cpu/panels.hpp"
#include "ops/cpu/whitening_sweeps.hpp"

namespace syncbn::ops::cpu {
namespace {

/// Copies channels [first, first + width) of one sample to rows of f64, centered. The padding of the rows stays 0.
void gather(const Tensor& x, std::int64_t sample, std::int64_t first, std::int64_t width, const double* center,
            double* rows) {
  const Panels p(x);
  const std::int64_t stride = padded_row(p.positions);
  for (std::int64_t c = first; c < first + width; ++c, rows += stride) {
    const float* in = x.sample(sample) + p.offset(c, 0);
    for (std::int64_t i = 0; i < p.positions; ++i) rows[i] = static_cast<double>(in[i * p.width]) - center[c];
  }
}

class CpuWhitening final : public WhiteningKernels {
 public:
  void products(const Tensor& a, const double* a_center, const Tensor& b, const double* b_center, Samples samples,
                std::int64_t width, double* sum, double* products) const override {
    const std::int64_t channels = a.shape.c(), stride = padded_row(a.shape.spatial());
    const bool symmetric = a.data == b.data && a_center == b_center;
    std::vector<double> left(static_cast<std::size_t>(width * stride)), right(symmetric ? 0 : left.size());
    for (std::int64_t n = samples.begin; n < samples.end; ++n) {
      for (std::int64_t first = 0; first < channels; first += width) {
        gather(a, n, first, width, a_center, left.data());
        if (!symmetric) gather(b, n, first, width, b_center, right.data());
        add_row_products(left.data(), symmetric ? left.data() : right.data(), width, stride, sum + first,
                         products + first * width);
      }
    }
  }

  void transform(const std::vector<Term>& terms, const double* shift, const Tensor& y, Samples samples,
                 std::int64_t width, bool accumulate) const override {
    const Panels p(y);
    const std::int64_t stride = padded_row(p.positions);
    std::vector<double> in(static_cast<std::size_t>(width * stride)), out(in.size());
    for (std::int64_t n = samples.begin; n < samples.end; ++n) {
      for (std::int64_t first = 0; first < p.channels; first += width) {
        for (std::int64_t i = 0; i < width; ++i) std::fill_n(out.begin() + i * stride, stride, shift[first + i]);
        for (const Term& term : terms) {
          gather(term.x, n, first, width, term.center, in.data());
          add_matrix_product(term.matrix + first * width, in.data(), width, stride, out.data());
        }
        scatter(out.data(), p, first, width, y.sample(n), accumulate);
      }
      if (!accumulate) clear_padding(p, y.sample(n));
    }
  }

 private:
  static void scatter(const double* rows, const Panels& p, std::int64_t first, std::int64_t width, float* sample,
                      bool accumulate) {
    for (std::int64_t c = first; c < first + width; ++c, rows += padded_row(p.positions)) {
      float* to = sample + p.offset(c, 0);
      for (std::int64_t i = 0; i < p.positions; ++i, to += p.width) {
        const auto value = static_cast<float>(rows[i]);
        *to = accumulate ? *to + value : value;
      }
    }
  }
};

}  // namespace

std::unique_ptr<WhiteningKernels> make_whitening_kernels() {
  return std::make_unique<CpuWhitening>();
}

}  // namespace syncbn::ops::cpu
