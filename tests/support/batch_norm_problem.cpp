#include "support/batch_norm_problem.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "support/worlds.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::test {

namespace {

Values normal_values(std::int64_t count, Random& random) {
  Values values(static_cast<std::size_t>(count));
  for (double& v : values) v = random.normal();
  return values;
}

OracleRequest oracle_request(const Problem& p) {
  OracleRequest request;
  request.eps = p.options.eps;
  request.gamma = p.gamma;
  request.beta = p.beta;
  request.relu = p.relu;
  if (p.mode == Mode::eval && p.options.track_running_stats) {
    const auto c = static_cast<std::size_t>(p.channels);
    request.given = {p.running_mean.empty() ? Values(c, 0) : p.running_mean,
                     p.running_var.empty() ? Values(c, 1) : p.running_var};
  }
  return request;
}

// Running statistics after the batch, and the number of batches.
void expect_running(const Problem& p, const OracleResult& batch, Outcome& outcome) {
  outcome.batches_tracked = p.batches_tracked;
  if (!p.options.track_running_stats) return;
  const auto channels = static_cast<std::size_t>(p.channels);
  outcome.running_mean = p.running_mean.empty() ? Values(channels, 0) : p.running_mean;
  outcome.running_var = p.running_var.empty() ? Values(channels, 1) : p.running_var;
  if (p.mode == Mode::eval || batch.count == 0) return;
  ++outcome.batches_tracked;
  const double m = p.options.cumulative ? 1 / static_cast<double>(outcome.batches_tracked) : p.options.momentum;
  for (std::size_t c = 0; c < channels; ++c) {
    const double unbiased = batch.var[c] * batch.count / (batch.count - 1);
    outcome.running_mean[c] = (1 - m) * outcome.running_mean[c] + m * batch.mean[c];
    outcome.running_var[c] = (1 - m) * outcome.running_var[c] + m * unbiased;
  }
}

}  // namespace

Values to_values(std::span<const float> values) {
  return Values(values.begin(), values.end());
}

Input draw_input(const Shape& shape, const Draw& draw, int worker) {
  Random random(draw.seed, Purpose::test, static_cast<std::uint64_t>(worker));
  Input input{shape, normal_values(shape.elements(), random), normal_values(shape.elements(), random), {}};
  if (draw.add) input.add = normal_values(shape.elements(), random);
  for (std::size_t i = 0; i < input.x.size(); ++i) {
    const auto c = static_cast<std::int64_t>(i) / shape.spatial() % shape.c();
    const double channel = 1 + 0.25 * static_cast<double>(c % 7);
    input.x[i] = channel * (draw.offset + draw.spread * input.x[i]);
  }
  for (Values* values : {&input.x, &input.dy, &input.add}) *values = rounded_to(draw.type, *values);
  return input;
}

Problem draw_problem(const std::vector<Shape>& shapes, const Draw& draw) {
  Problem problem;
  problem.channels = shapes.at(0).c();
  problem.type = draw.type;
  for (const Shape& shape : shapes) problem.inputs.push_back(draw_input(shape, draw, problem.workers()));
  Random random(draw.seed, Purpose::test, 1000);
  for (std::int64_t c = 0; c < problem.channels; ++c) {
    problem.gamma.push_back(static_cast<double>(0.5F + random.uniform()));
    problem.beta.push_back(static_cast<double>(random.uniform() - 0.5F));
  }
  return problem;
}

BatchNorm make_layer(const Problem& p, const Communicator& group, const std::string& name) {
  BatchNorm layer(name, p.channels, p.options, group);
  const auto assign = [](const Values& from, std::span<float> to) {
    for (std::size_t i = 0; i < from.size() && i < to.size(); ++i) to[i] = static_cast<float>(from[i]);
  };
  assign(p.gamma, layer.weight());
  assign(p.beta, layer.bias());
  assign(p.running_mean, layer.running_mean());
  assign(p.running_var, layer.running_var());
  layer.set_num_batches_tracked(p.batches_tracked);
  return layer;
}

Outcome run_worker(const Problem& p, BatchNorm& layer, int worker) {
  const Input& input = p.inputs.at(static_cast<std::size_t>(worker));
  const bool with_add = !input.add.empty();
  const HostTensor x(input.shape, p.type, p.x_layout, input.x);
  const HostTensor dy(input.shape, p.type, p.dy_layout, input.dy);
  const HostTensor y(input.shape, p.type, p.x_layout), dx(input.shape, p.type, p.x_layout);
  const HostTensor add(with_add ? input.shape : Shape{0, 1}, p.type, p.x_layout, input.add);
  const HostTensor d_add(with_add ? input.shape : Shape{0, 1}, p.type, p.x_layout);

  const auto context = BatchNorm::make_context();
  layer.forward(p.mode, x.view(), y.view(), *context, {with_add ? &add.view() : nullptr, p.relu}, 1);
  layer.zero_grad();
  layer.backward(x.view(), dy.view(), *context,
                 {p.want_dx ? &dx.view() : nullptr, with_add ? &d_add.view() : nullptr, false, false}, 1);
  EXPECT_TRUE(y.padding_is_zero()) << "y";
  EXPECT_TRUE(dx.padding_is_zero()) << "dx";

  Outcome outcome;
  outcome.y = y.get();
  if (p.want_dx) outcome.dx = dx.get();
  if (with_add) outcome.d_add = d_add.get();
  outcome.weight_grad = to_values(layer.weight_grad());
  outcome.bias_grad = to_values(layer.bias_grad());
  outcome.running_mean = to_values(layer.running_mean());
  outcome.running_var = to_values(layer.running_var());
  outcome.batches_tracked = layer.num_batches_tracked();
  outcome.gradients_are_reduced = layer.gradients_are_reduced();
  return outcome;
}

Outcomes run(World& world, const Problem& problem) {
  Outcomes outcomes(problem.inputs.size());
  world.run([&](Worker& worker) {
    const Communicator group = worker.group(problem.group_size());
    BatchNorm layer = make_layer(problem, group);
    outcomes[worker.index()] = run_worker(problem, layer, worker.index());
  });
  return outcomes;
}

Outcomes run(const Problem& problem) {
  World world = make_world(problem.workers());
  return run(world, problem);
}

Outcomes run_in_threads(const Problem& problem, int threads) {
  WorldOptions options;
  options.workers = problem.workers();
  options.threads = threads;
  World world = World::threads(options);
  return run(world, problem);
}

std::vector<Outcome> expected(const Problem& p) {
  std::vector<Outcome> outcomes;
  const OracleRequest request = oracle_request(p);
  const bool batch_statistics = !request.given;
  for (int first = 0; first < p.workers(); first += p.group_size()) {
    const std::vector<Input> members(p.inputs.begin() + first, p.inputs.begin() + first + p.group_size());
    const OracleResult result = batch_norm_oracle(members, p.channels, request);
    for (int i = 0; i < p.group_size(); ++i) {
      const OracleMember& member = result.members[i];
      Outcome outcome;
      outcome.y = member.y;
      if (p.want_dx) outcome.dx = member.dx;
      if (!members[i].add.empty()) outcome.d_add = member.d_add;
      outcome.gradients_are_reduced = p.want_dx && batch_statistics;
      if (p.options.affine) {
        outcome.weight_grad = outcome.gradients_are_reduced ? result.d_gamma : member.d_gamma;
        outcome.bias_grad = outcome.gradients_are_reduced ? result.d_beta : member.d_beta;
      }
      expect_running(p, result, outcome);
      outcomes.push_back(std::move(outcome));
    }
  }
  return outcomes;
}

Tolerance tolerance_of(DataType type) {
  switch (type) {
    case DataType::f32:
      return {1.3e-6, 1e-5};
    case DataType::f64:
      return {1e-8, 1e-9};
    case DataType::f16:
      return {1e-3, 1e-5};
    case DataType::bf16:
      return {1.6e-2, 1e-5};
  }
  return {0, 0};
}

void expect_close(const Values& actual, const Values& expected, Tolerance tolerance, bool scaled,
                  const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double scale = 1;
  if (scaled) {
    for (const double e : expected) scale = std::max(scale, std::abs(e));
  }
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double allowed = tolerance.rtol * std::abs(expected[i]) + tolerance.atol * scale;
    ASSERT_TRUE(std::abs(actual[i] - expected[i]) <= allowed)
        << fmt::format("{}[{}] is {:.9g}, not {:.9g}; the difference {:.3g} is above {:.3g}", what, i, actual[i],
                       expected[i], actual[i] - expected[i], allowed);
  }
}

void expect_matches(const Problem& problem, const Outcomes& outcomes, const std::vector<Outcome>& all_expected) {
  const Tolerance data = tolerance_of(problem.type);
  const Tolerance parameters = tolerance_of(DataType::f32);  // parameters and statistics are f32 for every data type
  for (std::size_t w = 0; w < outcomes.size(); ++w) {
    if (!outcomes[w]) continue;
    const Outcome& actual = *outcomes[w];
    const Outcome& oracle = all_expected[w];
    const auto what = [&](const char* name) { return fmt::format("worker {} of {}: {}", w, outcomes.size(), name); };
    expect_close(actual.y, oracle.y, data, false, what("y"));
    expect_close(actual.dx, oracle.dx, data, true, what("dx"));
    expect_close(actual.d_add, oracle.d_add, data, false, what("d_add"));
    expect_close(actual.weight_grad, oracle.weight_grad, parameters, true, what("d(gamma)"));
    expect_close(actual.bias_grad, oracle.bias_grad, parameters, true, what("d(beta)"));
    expect_close(actual.running_mean, oracle.running_mean, parameters, false, what("running_mean"));
    expect_close(actual.running_var, oracle.running_var, parameters, false, what("running_var"));
    EXPECT_EQ(actual.batches_tracked, oracle.batches_tracked) << what("num_batches_tracked");
    EXPECT_EQ(actual.gradients_are_reduced, oracle.gradients_are_reduced) << what("gradients_are_reduced");
  }
}

void expect_matches_oracle(const Problem& problem) {
  expect_matches(problem, run(problem), expected(problem));
}

bool bit_equal(const Values& a, const Values& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

void expect_bit_equal(const Outcome& a, const Outcome& b, const std::string& what) {
  EXPECT_TRUE(bit_equal(a.y, b.y)) << what << ": y";
  EXPECT_TRUE(bit_equal(a.dx, b.dx)) << what << ": dx";
  EXPECT_TRUE(bit_equal(a.d_add, b.d_add)) << what << ": d_add";
  EXPECT_TRUE(bit_equal(a.weight_grad, b.weight_grad)) << what << ": d(gamma)";
  EXPECT_TRUE(bit_equal(a.bias_grad, b.bias_grad)) << what << ": d(beta)";
  EXPECT_TRUE(bit_equal(a.running_mean, b.running_mean)) << what << ": running_mean";
  EXPECT_TRUE(bit_equal(a.running_var, b.running_var)) << what << ": running_var";
  EXPECT_EQ(a.batches_tracked, b.batches_tracked) << what;
}

void expect_bit_equal(const Outcomes& a, const Outcomes& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t w = 0; w < a.size(); ++w) {
    if (a[w] && b[w]) expect_bit_equal(*a[w], *b[w], fmt::format("{}, worker {}", what, w));
  }
}

}  // namespace syncbn::test
