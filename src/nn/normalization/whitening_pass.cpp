#include "nn/normalization/whitening_pass.hpp"

#include <fmt/format.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "nn/normalization/variance.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix block(const std::vector<double>& blocks, std::int64_t first, std::int64_t width) {
  return Eigen::Map<const Matrix>(blocks.data() + first * width, width, width);
}

void store(const Matrix& matrix, std::int64_t first, std::vector<double>& blocks) {
  std::copy_n(matrix.data(), matrix.size(), blocks.begin() + first * matrix.cols());
}

}  // namespace

WhiteningPass::WhiteningPass(const ops::Backend& backend, std::string name, std::int64_t channels, std::int64_t width,
                             double eps, Communicator group)
    : StatisticsPass("whitening", std::move(name), channels, eps, std::move(group)),
      pivots_(&backend.batch_norm()),
      kernels_(&backend.whitening()),
      width_(width) {
  const auto c = static_cast<std::size_t>(channels), square = static_cast<std::size_t>(channels * width);
  for (auto* array : {&pivot_, &sum_, &gamma_, &shift_, &zero_, &eigenvalues_, &dx_shift_}) array->assign(c, 0);
  for (auto* array : {&products_, &cov_, &whitening_, &matrix_, &basis_, &dy_matrix_, &x_matrix_}) {
    array->assign(square, 0);
  }
  message_.assign(1 + c + static_cast<std::size_t>(channels * (width + 1) / 2), 0);
  backward_message_.assign(c + square, 0);
  local_sums_ = backward_message_;
}

void WhiteningPass::begin() {
  local_count_ = 0;
  has_pivot_ = false;
  std::fill(sum_.begin(), sum_.end(), 0);
  std::fill(products_.begin(), products_.end(), 0);
}

void WhiteningPass::accumulate(const Tensor& x, ops::Samples samples) {
  if (samples.count() == 0) return;
  if (!has_pivot_) pivots_->pivot(x, samples.begin, pivot_.data());
  has_pivot_ = true;
  kernels_->products(x, pivot_.data(), x, pivot_.data(), samples, width_, sum_.data(), products_.data());
  local_count_ += samples.count() * x.shape.spatial();
}

// Sums in the message are about zero, as in batch normalization; of the symmetric products only the lower triangle is
// sent.
void WhiteningPass::start(std::int64_t step) {
  const auto n = static_cast<double>(local_count_);
  const auto mean = [&](std::int64_t c) {
    const auto i = static_cast<std::size_t>(c);
    return local_count_ ? pivot_[i] + sum_[i] / n : 0;
  };
  double* out = message_.data();
  *out++ = n;
  for (std::int64_t c = 0; c < channels_; ++c) *out++ = n * mean(c);
  for (std::int64_t c = 0; c < channels_; ++c) {
    for (std::int64_t j = 0; j <= c % width_; ++j) {
      const std::int64_t other = c - c % width_ + j;
      const double shift = local_count_ ? sum_[c] * sum_[other] / n : 0;
      *out++ = products_[c * width_ + j] - shift + n * mean(c) * mean(other);
    }
  }
  start_contribution(message_, step);
}

void WhiteningPass::finish(std::span<const float> gamma, std::span<const float> beta) {
  finish_all_reduce();
  count_ = std::llround(message_[0]);
  const double m = count_ ? message_[0] : 1;
  const double *sums = message_.data() + 1, *squares = sums + channels_;
  for (std::int64_t c = 0; c < channels_; ++c) mean_[c] = sums[c] / m;
  for (std::int64_t c = 0; c < channels_; ++c) {
    for (std::int64_t j = 0; j <= c % width_; ++j) {
      const std::int64_t other = c - c % width_ + j;
      const double square = *squares++ / m;
      const double a = mean_[c], b = mean_[other];
      const double cov = c == other ? variance(a, square) : square - a * b;
      cov_[c * width_ + j] = cov;
      cov_[other * width_ + c % width_] = cov;
    }
  }
  if (count_ > 0) derive_map(gamma, beta);
}

void WhiteningPass::use_statistics(std::span<const float> mean, std::span<const float> cov,
                                   std::span<const float> gamma, std::span<const float> beta) {
  count_ = 0;
  std::copy(mean.begin(), mean.end(), mean_.begin());
  std::copy(cov.begin(), cov.end(), cov_.begin());
  derive_map(gamma, beta);
}

// Per group, covariance + eps = D L D^T and W = D L^(-1/2) D^T. Rounding may leave a covariance with an eigenvalue just
// below 0, which is taken as 0.
void WhiteningPass::derive_map(std::span<const float> gamma, std::span<const float> beta) {
  for (std::int64_t first = 0; first < channels_; first += width_) {
    const Matrix cov = block(cov_, first, width_);
    if (!cov.allFinite()) {  // spreads to all outputs, as in batch normalization
      const Matrix nan = Matrix::Constant(width_, width_, std::numeric_limits<double>::quiet_NaN());
      for (auto* array : {&basis_, &whitening_}) store(nan, first, *array);
      continue;
    }
    const Eigen::SelfAdjointEigenSolver<Matrix> solver(cov);
    const Eigen::VectorXd values = solver.eigenvalues().array().max(0) + eps_;
    if (values.minCoeff() <= 0) {
      throw Error(
          fmt::format("{}channels {} to {} are linearly dependent and eps is 0: nothing to divide by; use eps > "
                      "0",
                      where(), first, first + width_ - 1));
    }
    const Matrix basis = solver.eigenvectors();
    const Matrix whitening = basis * values.cwiseSqrt().cwiseInverse().asDiagonal() * basis.transpose();
    store(basis, first, basis_);
    store(whitening, first, whitening_);
    std::copy_n(values.data(), width_, eigenvalues_.begin() + first);
  }
  for (std::int64_t c = 0; c < channels_; ++c) {
    const auto i = static_cast<std::size_t>(c);
    gamma_[i] = gamma.empty() ? 1 : static_cast<double>(gamma[i]);
    shift_[i] = beta.empty() ? 0 : static_cast<double>(beta[i]);
    for (std::int64_t j = c * width_; j < (c + 1) * width_; ++j) {
      matrix_[j] = gamma_[i] * whitening_[j];
    }
  }
}

void WhiteningPass::apply(const Tensor& x, const Tensor& y, ops::Samples samples) const {
  kernels_->transform({{x, mean_.data(), matrix_.data()}}, shift_.data(), y, samples, width_, false);
}

void WhiteningPass::begin_backward() {
  std::fill(local_sums_.begin(), local_sums_.end(), 0);
}

void WhiteningPass::accumulate_backward(const Tensor& x, const Tensor& dy, ops::Samples samples) {
  kernels_->products(dy, zero_.data(), x, mean_.data(), samples, width_, local_sums_.data(),
                     local_sums_.data() + channels_);
}

void WhiteningPass::start_backward(std::int64_t step) {
  backward_message_ = local_sums_;
  start_all_reduce(backward_message_, step);
}

void WhiteningPass::finish_backward() {
  finish_all_reduce();
  if (count_ == 0) return;
  for (std::int64_t first = 0; first < channels_; first += width_) derive_gradient(first);
}

// With G = gamma * dy, A = sum(G), B = sum(G (x - mean)^T), dL/dW = B. Since W is a function f(l) = l^(-1/2) of a
// symmetric matrix with eigenvalues l and eigenvectors D, dL/d(covariance) = S = D (P o (D^T sym(B) D)) D^T, where P_ij
// = (f(l_i) - f(l_j)) / (l_i - l_j) = -1 / (sqrt(l_i l_j) (sqrt(l_i) + sqrt(l_j))), which is defined for equal
// eigenvalues, too. Then dx = W (G - A / M) + 2 / M S (x - mean).
void WhiteningPass::derive_gradient(std::int64_t first) {
  const auto m = static_cast<double>(count_);
  const Eigen::Map<const Eigen::VectorXd> gamma(gamma_.data() + first, width_);
  const Matrix w = block(whitening_, first, width_), d = block(basis_, first, width_);
  const Eigen::Map<const Matrix> products(backward_message_.data() + channels_ + first * width_, width_, width_);
  const Matrix b = gamma.asDiagonal() * products;
  Matrix inner = d.transpose() * (0.5 * (b + b.transpose())) * d;
  for (std::int64_t i = 0; i < width_; ++i) {
    for (std::int64_t j = 0; j < width_; ++j) {
      const double a = std::sqrt(eigenvalues_[first + i]);
      const double c = std::sqrt(eigenvalues_[first + j]);
      inner(i, j) *= -1 / (a * c * (a + c));
    }
  }
  const Matrix by_x = 2 / m * (d * inner * d.transpose());
  const Matrix by_dy = w * gamma.asDiagonal();
  const Eigen::Map<const Eigen::VectorXd> sums(backward_message_.data() + first, width_);
  const Eigen::VectorXd shift = -(by_dy * sums) / m;
  store(by_x, first, x_matrix_);
  store(by_dy, first, dy_matrix_);
  std::copy_n(shift.data(), width_, dx_shift_.begin() + first);
}

void WhiteningPass::apply_backward(const Tensor& x, const Tensor& dy, const Tensor& dx, ops::Samples samples,
                                   bool accumulate_dx) const {
  kernels_->transform({{dy, zero_.data(), dy_matrix_.data()}, {x, mean_.data(), x_matrix_.data()}}, dx_shift_.data(),
                      dx, samples, width_, accumulate_dx);
}

// y_i = gamma_i * sum_j W_ij (x_j - mean_j) + beta_i
void WhiteningPass::parameter_gradients(bool of_group, std::span<double> d_gamma, std::span<double> d_beta) const {
  const double *sum_dy = (of_group ? backward_message_ : local_sums_).data(), *products = sum_dy + channels_;
  for (std::int64_t c = 0; c < channels_; ++c) {
    double sum = 0;
    for (std::int64_t j = c * width_; j < (c + 1) * width_; ++j) {
      sum += whitening_[j] * products[j];
    }
    d_gamma[c] = sum;
    d_beta[c] = sum_dy[c];
  }
}

}  // namespace syncbn
