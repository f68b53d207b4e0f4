#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "support/batch_norm_oracle.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/nn/batch_norm.hpp"

namespace syncbn::test {

/// One use of a BatchNorm layer by W workers: forward, then backward. Everything that the oracle needs too.
struct Problem {
  std::int64_t channels = 3;
  std::vector<Input> inputs;  ///< one per worker
  int group = 0;              ///< workers per group; 0 = all
  BatchNormOptions options;
  Mode mode = Mode::train;
  Values gamma, beta;                ///< of f32 precision; empty with affine = false
  Values running_mean, running_var;  ///< before; of f32 precision; empty: 0 and 1
  std::int64_t batches_tracked = 0;
  DataType type = DataType::f32;
  Layout x_layout = Layout::channels_first, dy_layout = Layout::channels_first;
  bool relu = false;
  bool want_dx = true;

  int workers() const { return static_cast<int>(inputs.size()); }
  int group_size() const { return group == 0 ? workers() : group; }
};

/// How random inputs are drawn: x ~ N(offset, spread), different per channel; dy and add ~ N(0, 1).
struct Draw {
  double offset = 0.5, spread = 2;
  DataType type = DataType::f32;
  bool add = false;
  std::uint64_t seed = 1;
};
Input draw_input(const Shape& shape, const Draw& draw, int worker);
/// A problem with one input of each shape and random gamma and beta.
Problem draw_problem(const std::vector<Shape>& shapes, const Draw& draw = {});

/// What a worker holds afterwards.
struct Outcome {
  Values y, dx, d_add;
  Values weight_grad, bias_grad;
  Values running_mean, running_var;
  std::int64_t batches_tracked = 0;
  bool gradients_are_reduced = false;
};
/// One per worker; empty for the workers of other ranks.
using Outcomes = std::vector<std::optional<Outcome>>;

Values to_values(std::span<const float> values);
/// A layer as the problem describes it.
BatchNorm make_layer(const Problem& problem, const Communicator& group, const std::string& name = "layer1.0.bn1");
/// Forward and backward of one worker with a layer of its own.
Outcome run_worker(const Problem& problem, BatchNorm& layer, int worker);
/// All workers of the world. Collective over ranks.
Outcomes run(World& world, const Problem& problem);
/// In a new world over all ranks of this job.
Outcomes run(const Problem& problem);
/// In a new world of threads, in this process alone.
Outcomes run_in_threads(const Problem& problem, int threads = 0);

/// The same from the oracle.
std::vector<Outcome> expected(const Problem& problem);

/// |actual - expected| <= rtol * |expected| + atol * max(1, scale), see expect_close().
struct Tolerance {
  double rtol, atol;
};
Tolerance tolerance_of(DataType type);
/// Fails the test at the first value out of tolerance. `scaled`: scale = the largest |expected|, for sums and for
/// gradients, whose rounding follows the size of their terms; otherwise 1.
void expect_close(const Values& actual, const Values& expected, Tolerance tolerance, bool scaled,
                  const std::string& what);
void expect_matches(const Problem& problem, const Outcomes& outcomes, const std::vector<Outcome>& expected);
/// run() against expected().
void expect_matches_oracle(const Problem& problem);
void expect_bit_equal(const Outcome& a, const Outcome& b, const std::string& what);
/// The workers that both ran.
void expect_bit_equal(const Outcomes& a, const Outcomes& b, const std::string& what);
bool bit_equal(const Values& a, const Values& b);

}  // namespace syncbn::test
