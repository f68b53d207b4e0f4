#include "support/batch_norm_oracle.hpp"

#include <Eigen/Core>

namespace syncbn::test {

namespace {

using Array = Eigen::ArrayXd;

// All values of one channel: member after member, sample after sample.
Array gather(const std::vector<Input>& members, const Values Input::*field, std::int64_t channels, std::int64_t c) {
  Eigen::Index total = 0;
  for (const Input& m : members) total += m.shape.n() * m.shape.spatial();
  Array all(total);
  Eigen::Index at = 0;
  for (const Input& m : members) {
    const std::int64_t spatial = m.shape.spatial();
    for (std::int64_t n = 0; n < m.shape.n(); ++n) {
      if ((m.*field).empty()) {
        all.segment(at, spatial).setZero();
      } else {
        all.segment(at, spatial) = Eigen::Map<const Array>((m.*field).data() + (n * channels + c) * spatial, spatial);
      }
      at += spatial;
    }
  }
  return all;
}

// The inverse of gather().
void scatter(const Array& all, const std::vector<Input>& inputs, std::vector<OracleMember>& members,
             Values OracleMember::*field, std::int64_t channels, std::int64_t c) {
  Eigen::Index at = 0;
  for (std::size_t w = 0; w < inputs.size(); ++w) {
    const std::int64_t spatial = inputs[w].shape.spatial();
    for (std::int64_t n = 0; n < inputs[w].shape.n(); ++n) {
      Eigen::Map<Array>((members[w].*field).data() + (n * channels + c) * spatial, spatial) = all.segment(at, spatial);
      at += spatial;
    }
  }
}

void member_shares(const Array& g, const Array& g_xhat, const std::vector<Input>& inputs,
                   std::vector<OracleMember>& members, std::size_t c) {
  Eigen::Index at = 0;
  for (std::size_t w = 0; w < inputs.size(); ++w) {
    const Eigen::Index n = inputs[w].shape.n() * inputs[w].shape.spatial();
    members[w].d_beta[c] = g.segment(at, n).sum();
    members[w].d_gamma[c] = g_xhat.segment(at, n).sum();
    at += n;
  }
}

}  // namespace

OracleResult batch_norm_oracle(const std::vector<Input>& inputs, std::int64_t channels, const OracleRequest& request) {
  const auto c_count = static_cast<std::size_t>(channels);
  OracleResult result;
  for (auto* field : {&result.mean, &result.var, &result.d_gamma, &result.d_beta}) field->assign(c_count, 0);
  for (const Input& input : inputs) {
    const auto elements = static_cast<std::size_t>(input.shape.elements());
    result.members.push_back({Values(elements), Values(elements), Values(elements), Values(c_count), Values(c_count)});
    result.count += static_cast<double>(input.shape.n() * input.shape.spatial());
  }
  if (result.count == 0) return result;

  for (std::size_t c = 0; c < c_count; ++c) {
    const auto channel = static_cast<std::int64_t>(c);
    const Array x = gather(inputs, &Input::x, channels, channel);
    const Array add = gather(inputs, &Input::add, channels, channel);
    const Array dy = gather(inputs, &Input::dy, channels, channel);
    const double gamma = request.gamma.empty() ? 1 : request.gamma[c];
    const double beta = request.beta.empty() ? 0 : request.beta[c];

    double mean = x.mean();
    mean += (x - mean).mean();  // what the first rounding left
    const double var = (x - mean).square().mean();
    result.mean[c] = request.given ? request.given->mean[c] : mean;
    result.var[c] = request.given ? request.given->var[c] : var;
    const double invstd = 1 / std::sqrt(result.var[c] + request.eps);
    const Array xhat = (x - result.mean[c]) * invstd;
    Array y = gamma * xhat + beta + add;
    Array g = dy;
    if (request.relu) {
      g = (y > 0).select(dy, 0.0);
      y = y.max(0.0);
    }
    result.d_beta[c] = g.sum();
    result.d_gamma[c] = (g * xhat).sum();
    Array dx = gamma * invstd * g;
    if (!request.given) dx -= gamma * invstd / result.count * (result.d_beta[c] + xhat * result.d_gamma[c]);

    scatter(y, inputs, result.members, &OracleMember::y, channels, channel);
    scatter(dx, inputs, result.members, &OracleMember::dx, channels, channel);
    scatter(g, inputs, result.members, &OracleMember::d_add, channels, channel);
    member_shares(g, g * xhat, inputs, result.members, c);
  }
  return result;
}

}  // namespace syncbn::test
