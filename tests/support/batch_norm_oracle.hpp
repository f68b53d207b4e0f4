#pragma once

#include <optional>
#include <vector>

#include "support/host_tensor.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn::test {

/// What one worker feeds into a normalization layer.
struct Input {
  Shape shape;
  Values x, dy;
  Values add;  ///< residual; empty: none
};

struct OracleRequest {
  double eps = 1e-5;
  Values gamma, beta;  ///< [C]; empty: 1 and 0
  bool relu = false;
  struct Statistics {
    Values mean, var;
  };
  std::optional<Statistics> given;  ///< evaluation: use these; gradients then treat them as constants
};

struct OracleMember {
  Values y, dx, d_add;
  Values d_gamma, d_beta;  ///< this member's share, [C]
};

struct OracleResult {
  double count = 0;        ///< M, values per channel
  Values mean, var;        ///< [C], biased variance
  Values d_gamma, d_beta;  ///< over all members, [C]
  std::vector<OracleMember> members;
};

/// Batch normalization of the union of all members' data, forward and backward, in f64 and in two passes.
OracleResult batch_norm_oracle(const std::vector<Input>& members, std::int64_t channels, const OracleRequest& request);

}  // namespace syncbn::test
