// Decorrelated batch normalization by several workers against its definition in f64.

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>

#include "nn/normalization/batch_norm_pass.hpp"
#include "nn/normalization/whitening_pass.hpp"
#include "support/ops_support.hpp"
#include "support/worlds.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::test {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using syncbn::testing::Array;
using syncbn::testing::expect_close;

constexpr double kEps = 1e-5;
constexpr std::int64_t kPositions = 4;

/// One group of channels: columns are the values of all workers' samples and positions.
struct Group {
  MatrixXd x, dy;
  VectorXd gamma, beta;

  MatrixXd covariance() const {
    const MatrixXd centered = x.colwise() - x.rowwise().mean();
    return centered * centered.transpose() / static_cast<double>(x.cols());
  }
  MatrixXd forward() const {
    const MatrixXd centered = x.colwise() - x.rowwise().mean();
    const MatrixXd cov = covariance() + kEps * MatrixXd::Identity(x.rows(), x.rows());
    const MatrixXd y =
        gamma.asDiagonal() * Eigen::SelfAdjointEigenSolver<MatrixXd>(cov).operatorInverseSqrt() * centered;
    return y.colwise() + beta;
  }
  /// d(sum(dy * y)) / d(*value), by central differences.
  double slope(double& value) {
    const double kept = value, h = 1e-5;
    value = kept + h;
    const double above = dy.cwiseProduct(forward()).sum();
    value = kept - h;
    const double below = dy.cwiseProduct(forward()).sum();
    value = kept;
    return (above - below) / (2 * h);
  }
};

struct Whitened {
  std::vector<int> counts;
  std::int64_t channels, width;
  Layout layout = Layout::channels_first;
  double offset = 0.5;

  /// Correlated neighbours: every channel holds part of the one before.
  Array x(int worker) const {
    Array a = empty(worker);
    a.fill(1 + 10 * static_cast<std::uint64_t>(worker));
    for (std::int64_t n = 0; n < a.n(); ++n) {
      for (std::int64_t i = 0; i < kPositions; ++i) {
        for (std::int64_t c = 1; c < channels; ++c) a.set(n, c, i, a.get(n, c, i) + 0.8 * a.get(n, c - 1, i));
      }
    }
    a.for_each([&](auto n, auto c, auto i) { a.set(n, c, i, a.get(n, c, i) + offset * static_cast<double>(c + 1)); });
    return a;
  }
  Array dy(int worker) const {
    Array a = empty(worker);
    a.fill(2 + 10 * static_cast<std::uint64_t>(worker));
    return a;
  }
  Array empty(int worker) const { return {{counts[worker], channels, kPositions}, layout}; }
  std::int64_t first_column(int worker) const {
    std::int64_t n = 0;
    for (int w = 0; w < worker; ++w) n += counts[w] * kPositions;
    return n;
  }
  std::vector<float> gamma() const {
    std::vector<float> g;
    for (std::int64_t c = 0; c < channels; ++c) g.push_back(0.75f * static_cast<float>(c % 4) - 0.5f);
    return g;
  }
  std::vector<float> beta() const { return std::vector<float>(static_cast<std::size_t>(channels), 0.25f); }

  Group group(std::int64_t first) const {
    const int workers = static_cast<int>(counts.size());
    Group g;
    g.x.resize(width, first_column(workers));
    g.dy = g.x;
    for (int w = 0; w < workers; ++w) {
      const Array xs = x(w), dys = dy(w);
      xs.for_each([&](auto n, auto c, auto i) {
        if (c < first || c >= first + width) return;
        const std::int64_t column = first_column(w) + n * kPositions + i;
        g.x(c - first, column) = xs.get(n, c, i);
        g.dy(c - first, column) = dys.get(n, c, i);
      });
    }
    const std::vector<float> all = gamma();
    g.gamma.resize(width);
    for (std::int64_t c = 0; c < width; ++c) g.gamma[c] = static_cast<double>(all[first + c]);
    g.beta = VectorXd::Constant(width, 0.25);
    return g;
  }
};

struct Result {
  Array y, dx;
  std::vector<double> d_gamma, d_beta, cov;
};

Result run(const Whitened& s, int worker, const Communicator& all) {
  const auto backend = ops::make_cpu_backend();
  const Array x = s.x(worker), dy = s.dy(worker);
  Result o{s.empty(worker), s.empty(worker), {}, {}, {}};
  o.d_gamma.resize(static_cast<std::size_t>(s.channels));
  o.d_beta = o.d_gamma;
  WhiteningPass pass(*backend, "whitening", s.channels, s.width, kEps, all);
  const std::int64_t n = x.n(), half = n / 2;
  pass.begin();
  for (const ops::Samples part : {ops::Samples{0, half}, ops::Samples{half, n}}) pass.accumulate(x, part);
  pass.start(0);
  pass.finish(s.gamma(), s.beta());
  pass.apply(x, o.y, {0, n});
  pass.begin_backward();
  for (const ops::Samples part : {ops::Samples{0, half}, ops::Samples{half, n}}) pass.accumulate_backward(x, dy, part);
  pass.start_backward(0);
  pass.finish_backward();
  pass.apply_backward(x, dy, o.dx, {0, n}, false);
  pass.parameter_gradients(/*of_group=*/true, o.d_gamma, o.d_beta);
  o.cov.assign(pass.cov().begin(), pass.cov().end());
  return o;
}

void check(const Whitened& s) {
  World world = make_world(static_cast<int>(s.counts.size()));
  world.run([&](Worker& worker) {
    const Result o = run(s, worker.index(), worker.all());
    EXPECT_TRUE(o.y.padding_is_clean());
    EXPECT_TRUE(o.dx.padding_is_clean());
    const double far = std::max(1.0, s.offset * static_cast<double>(s.channels));  // how coarse x itself is
    for (std::int64_t first = 0; first < s.channels; first += s.width) {
      Group g = s.group(first);
      const MatrixXd y = g.forward(), cov = g.covariance();
      for (std::int64_t c = 0; c < s.width; ++c) {
        const auto channel = static_cast<std::size_t>(first + c);
        for (std::int64_t k = 0; k < o.y.n() * kPositions; ++k) {
          const std::int64_t column = s.first_column(worker.index()) + k;
          const auto got = [&](const Array& a) { return a.get(k / kPositions, first + c, k % kPositions); };
          expect_close(got(o.y), y(c, column), 1e-6, 1e-6 * far, "y");
          expect_close(got(o.dx), g.slope(g.x(c, column)), 1e-5, 1e-5 * far, "dx");
        }
        expect_close(o.d_gamma[channel], g.slope(g.gamma[c]), 1e-5, 1e-5 * far, "d_gamma");
        expect_close(o.d_beta[channel], g.slope(g.beta[c]), 1e-5, 1e-5, "d_beta");
        for (std::int64_t j = 0; j < s.width; ++j) {
          expect_close(o.cov[channel * static_cast<std::size_t>(s.width) + static_cast<std::size_t>(j)], cov(c, j),
                       1e-9, 1e-9 * far * far, "covariance");
        }
      }
    }
  });
}

TEST(Whitening, AgreesWithTheDefinition) {
  const std::vector<std::vector<int>> spreads = {{6}, {4, 3}, {5, 0, 2}, {0, 3, 1, 1, 2, 0, 1, 2}};
  for (const std::vector<int>& counts : spreads) {
    if (static_cast<int>(counts.size()) < job_ranks()) continue;
    check({counts, 4, 4});
    check({counts, 6, 3});
    check({counts, 6, 2, Layout::channels_last});
    check({counts, 6, 3, Layout::blocked8});
    check({counts, 4, 2, Layout::channels_first, 100});
  }
}

// The outputs are what the name says: their covariance is the identity.
TEST(Whitening, OutputsAreUncorrelated) {
  const auto backend = ops::make_cpu_backend();
  const Whitened s{{40}, 4, 4};
  const Array x = s.x(0), y = s.empty(0);
  WhiteningPass pass(*backend, "whitening", 4, 4, 1e-12, Communicator());
  pass.begin();
  pass.accumulate(x, {0, 40});
  pass.start(0);
  pass.finish({}, {});
  pass.apply(x, y, {0, 40});
  MatrixXd values(4, 40 * kPositions);
  y.for_each([&](auto n, auto c, auto i) { values(c, n * kPositions + i) = y.get(n, c, i); });
  EXPECT_LT(values.rowwise().mean().cwiseAbs().maxCoeff(), 1e-6);
  EXPECT_LT((values * values.transpose() / values.cols() - MatrixXd::Identity(4, 4)).cwiseAbs().maxCoeff(), 1e-6);
}

TEST(Whitening, GroupsOfOneChannelAreBatchNorm) {
  const auto backend = ops::make_cpu_backend();
  const Whitened s{{9}, 5, 1};
  const Result o = run(s, 0, Communicator());
  const Array x = s.x(0), y = s.empty(0);
  BatchNormPass pass(backend->batch_norm(), "batch", 5, kEps, Communicator());
  pass.begin();
  pass.accumulate(x, {0, 9});
  pass.start(0);
  pass.finish(s.gamma(), s.beta());
  pass.apply(x, {}, y, {0, 9}, ops::FusedRelu::none, nullptr);
  y.for_each([&](auto n, auto c, auto i) { expect_close(o.y.get(n, c, i), y.get(n, c, i), 1e-6, 1e-6, "y"); });
}

// Running statistics make evaluation the same map; constant and equal channels stay finite; NaN reaches the output.
TEST(Whitening, SpecialInputs) {
  const auto backend = ops::make_cpu_backend();
  const Whitened s{{6}, 4, 2};
  Array x = s.x(0), y = s.empty(0);
  WhiteningPass pass(*backend, "whitening", 4, 2, kEps, Communicator());
  const auto forward = [&] {
    pass.begin();
    pass.accumulate(x, {0, 6});
    pass.start(0);
    pass.finish({}, {});
    pass.apply(x, y, {0, 6});
  };
  forward();
  Array eval = s.empty(0);
  const std::vector<float> mean(pass.mean().begin(), pass.mean().end()), cov(pass.cov().begin(), pass.cov().end());
  pass.use_statistics(mean, cov, {}, {});
  pass.apply(x, eval, {0, 6});
  x.for_each([&](auto n, auto c, auto i) { expect_close(eval.get(n, c, i), y.get(n, c, i), 1e-5, 1e-5, "y"); });

  x.for_each([&](auto n, auto c, auto i) { x.set(n, c, i, c < 2 ? 7 : x.get(n, 3, i)); });
  forward();
  y.for_each([&](auto n, auto c, auto i) {
    EXPECT_TRUE(std::isfinite(y.get(n, c, i)));
    EXPECT_TRUE(c >= 2 || y.get(n, c, i) == 0);
  });
  WhiteningPass strict(*backend, "whitening", 4, 2, 0, Communicator());
  strict.begin();
  strict.accumulate(x, {0, 6});
  strict.start(0);
  EXPECT_THROW(strict.finish({}, {}), Error);

  x.set(2, 1, 1, std::nan(""));
  forward();
  EXPECT_TRUE(std::isnan(y.get(0, 0, 0)));
  EXPECT_TRUE(std::isnan(y.get(5, 1, 3)));
  EXPECT_TRUE(std::isfinite(y.get(0, 2, 0)));  // another group
  EXPECT_FALSE(pass.local_finite());
}

}  // namespace
}  // namespace syncbn::test
