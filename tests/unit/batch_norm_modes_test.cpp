// Training and evaluation, running statistics, options, conversion between groups.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "support/batch_norm_problem.hpp"
#include "support/worlds.hpp"

namespace syncbn::test {

namespace {

Problem even_problem(int workers, const Draw& draw = {}) {
  return draw_problem(std::vector<Shape>(static_cast<std::size_t>(workers), Shape{2, 3, 4, 5}), draw);
}

void with_running_statistics(Problem& problem) {
  problem.running_mean = {0.25, -1.5, 2};
  problem.running_var = {0.5, 3, 9};
  problem.batches_tracked = 5;
}

// All inputs of step `step`, drawn anew.
std::vector<Input> inputs_of_step(int workers, int step) {
  std::vector<Input> inputs;
  for (int w = 0; w < workers; ++w) {
    inputs.push_back(draw_input({2, 3, 4, 5}, {.seed = 100 + static_cast<std::uint64_t>(step)}, w));
  }
  return inputs;
}

}  // namespace

TEST(BatchNormCases, Case11InputNeedsNoGradient) {
  for (const int workers : world_sizes()) {
    Problem problem = even_problem(workers);
    problem.want_dx = false;
    expect_matches_oracle(problem);
  }
}

// Worker 0 runs its backward pass alone: had it sent a message, the others' barrier would not match it.
TEST(BatchNormCases, Case11InputNeedsNoGradientSendsNothing) {
  for (const int workers : world_sizes()) {
    const Problem problem = even_problem(workers);
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const Communicator group = worker.group(workers);
      BatchNorm layer = make_layer(problem, group);
      const Input& input = problem.inputs[worker.index()];
      const HostTensor x(input.shape, problem.type, problem.x_layout, input.x);
      const HostTensor dy(input.shape, problem.type, problem.x_layout, input.dy);
      const HostTensor y(input.shape, problem.type, problem.x_layout);
      const auto context = BatchNorm::make_context();
      layer.forward(Mode::train, x.view(), y.view(), *context, 1);
      if (worker.index() == 0) layer.backward(x.view(), dy.view(), *context, {}, 1);
      group.barrier({"end", 1});
    });
  }
}

TEST(BatchNormCases, Case15EvaluationOnOneWorkerAlone) {
  for (const int workers : world_sizes()) {
    Problem problem = even_problem(workers);
    with_running_statistics(problem);
    problem.mode = Mode::eval;
    World world = make_world(workers);
    Outcomes outcomes(problem.inputs.size());
    world.run([&](Worker& worker) {
      const Communicator group = worker.group(workers);
      BatchNorm layer = make_layer(problem, group);
      if (worker.index() == workers - 1) {  // forward and backward
        outcomes[worker.index()] = run_worker(problem, layer, worker.index());
      }
      group.barrier({"end", 1});
    });
    expect_matches(problem, outcomes, expected(problem));
  }
}

TEST(BatchNormCases, Case16NoRunningStatistics) {
  for (const int workers : world_sizes()) {
    Problem train = even_problem(workers);
    train.options.track_running_stats = false;
    Problem eval = train;
    eval.mode = Mode::eval;
    expect_matches_oracle(train);
    expect_matches_oracle(eval);
    const Outcomes trained = run(train);
    expect_bit_equal(trained, run(eval), "train and eval");
    for (const auto& outcome : trained) {
      if (outcome) {
        EXPECT_TRUE(outcome->running_mean.empty() && outcome->running_var.empty());
      }
    }
  }
}

TEST(BatchNormCases, Case17CumulativeMomentumIsTheMean) {
  constexpr int kSteps = 7;
  for (const int workers : world_sizes()) {
    Problem problem = even_problem(workers);
    problem.options.cumulative = true;
    Values mean(3), var(3);
    for (int step = 0; step < kSteps; ++step) {
      const OracleResult batch = batch_norm_oracle(inputs_of_step(workers, step), 3, {});
      for (std::size_t c = 0; c < 3; ++c) {
        mean[c] += batch.mean[c] / kSteps;
        var[c] += batch.var[c] * batch.count / (batch.count - 1) / kSteps;
      }
    }
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      BatchNorm layer = make_layer(problem, worker.group(workers));
      Problem batch = problem;
      for (int step = 0; step < kSteps; ++step) {
        batch.inputs = inputs_of_step(workers, step);
        run_worker(batch, layer, worker.index());
      }
      EXPECT_EQ(layer.num_batches_tracked(), kSteps);
      expect_close(to_values(layer.running_mean()), mean, tolerance_of(DataType::f32), false, "running_mean");
      expect_close(to_values(layer.running_var()), var, tolerance_of(DataType::f32), false, "running_var");
    });
  }
}

TEST(BatchNormCases, Case18MomentumZeroAndOne) {
  for (const int workers : world_sizes()) {
    Problem problem = even_problem(workers);
    with_running_statistics(problem);
    const OracleResult batch = batch_norm_oracle(problem.inputs, 3, {});
    Values unbiased = batch.var;
    for (double& v : unbiased) v *= batch.count / (batch.count - 1);

    problem.options.momentum = 0;
    expect_matches_oracle(problem);
    for (const auto& outcome : run(problem)) {
      if (!outcome) continue;
      EXPECT_EQ(outcome->running_mean, problem.running_mean);
      EXPECT_EQ(outcome->running_var, problem.running_var);
    }
    problem.options.momentum = 1;
    expect_matches_oracle(problem);
    for (const auto& outcome : run(problem)) {
      if (!outcome) continue;
      expect_close(outcome->running_mean, batch.mean, {1e-6, 0}, false, "running_mean");
      expect_close(outcome->running_var, unbiased, {1e-6, 0}, false, "running_var");
    }
  }
}

TEST(BatchNormCases, Case19NoAffineParameters) {
  for (const int workers : world_sizes()) {
    for (const Mode mode : {Mode::train, Mode::eval}) {
      Problem problem = even_problem(workers);
      with_running_statistics(problem);
      problem.options.affine = false;
      problem.mode = mode;
      problem.gamma.clear();
      problem.beta.clear();
      expect_matches_oracle(problem);
    }
  }
}

TEST(BatchNormCases, AConstantLayerShowsItsValues) {
  BatchNorm norm("bn", 2, {}, {});
  norm.weight()[1] = 3;
  norm.running_mean()[0] = 5;
  const BatchNorm& constant = norm;
  EXPECT_EQ(constant.weight()[1], 3);
  EXPECT_EQ(constant.running_mean()[0], 5);
  EXPECT_EQ(constant.bias().data(), norm.bias().data());
  EXPECT_EQ(constant.weight_grad().data(), norm.weight_grad().data());
  EXPECT_EQ(constant.bias_grad().data(), norm.bias_grad().data());
  EXPECT_EQ(constant.running_var().data(), norm.running_var().data());
}

TEST(BatchNormCases, Case45ConversionKeepsEverything) {
  for (const int workers : world_sizes()) {
    Problem problem = even_problem(workers);
    with_running_statistics(problem);
    problem.options = {.eps = 1e-3, .momentum = 0.3, .cumulative = false, .affine = true, .track_running_stats = true};
    const int half = workers % 2 == 0 ? workers / 2 : 1;
    World world = make_world(workers);
    std::vector<Outcomes> outcomes(3, Outcomes(problem.inputs.size()));
    world.run([&](Worker& worker) {
      const auto w = static_cast<std::size_t>(worker.index());
      const BatchNorm local = make_layer(problem, Communicator());
      BatchNorm everywhere = local.convert(worker.group(workers));
      BatchNorm grouped = everywhere.convert(worker.group(half));
      BatchNorm back = grouped.convert(Communicator());
      EXPECT_EQ(everywhere.group().size(), workers);
      EXPECT_EQ(grouped.group().size(), half);
      EXPECT_EQ(back.group().size(), 1);
      for (const BatchNorm* layer : {&everywhere, &grouped, &back}) {
        EXPECT_EQ(layer->name(), "layer1.0.bn1");
        EXPECT_EQ(layer->channels(), 3);
        EXPECT_EQ(layer->options().eps, 1e-3);
        EXPECT_EQ(layer->options().momentum, 0.3);
        EXPECT_EQ(layer->num_batches_tracked(), 5);
      }
      EXPECT_EQ(to_values(back.weight()), problem.gamma);
      EXPECT_EQ(to_values(back.bias()), problem.beta);
      EXPECT_EQ(to_values(back.running_mean()), problem.running_mean);
      EXPECT_EQ(to_values(back.running_var()), problem.running_var);
      outcomes[0][w] = run_worker(problem, everywhere, worker.index());
      outcomes[1][w] = run_worker(problem, grouped, worker.index());
      outcomes[2][w] = run_worker(problem, back, worker.index());
    });
    for (const auto& [group, outcome] : {std::pair(workers, 0), std::pair(half, 1), std::pair(1, 2)}) {
      problem.group = group;
      expect_matches(problem, outcomes[outcome], expected(problem));
    }
  }
}

// The mode belongs to the call, not to the layer, so conversion cannot lose it; the other options are kept as they are.
TEST(BatchNormCases, Case45ConversionKeepsUnusualOptions) {
  const BatchNorm layer("bn1", 4,
                        {.eps = 0, .momentum = 0, .cumulative = true, .affine = false, .track_running_stats = false},
                        Communicator());
  BatchNorm converted = layer.convert(Communicator());
  EXPECT_EQ(converted.options().eps, 0);
  EXPECT_EQ(converted.options().momentum, 0);
  EXPECT_TRUE(converted.options().cumulative);
  EXPECT_TRUE(converted.weight().empty() && converted.bias().empty());
  EXPECT_TRUE(converted.running_mean().empty() && converted.running_var().empty());
}

}  // namespace syncbn::test
