// Gradients over several calls, layers and workers; the fused forms against the plain ones.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "comm/gradients/gradient_exchange.hpp"
#include "nn/normalization/batch_norm_pass.hpp"
#include "support/batch_norm_problem.hpp"
#include "support/worlds.hpp"

namespace syncbn::test {

namespace {

constexpr Layout kFirst = Layout::channels_first;

std::vector<Shape> uneven(int workers) {
  std::vector<Shape> shapes;
  for (int w = 0; w < workers; ++w) shapes.push_back({1 + 2 * w % 5, 3, 4, 5});
  return shapes;
}

HostTensor tensor(const Input& input, const Values& values) {
  return HostTensor(input.shape, DataType::f32, kFirst, values);
}
HostTensor tensor(const Input& input) {
  return HostTensor(input.shape, DataType::f32, kFirst);
}

Values sum(const Values& a, const Values& b) {
  Values result = a;
  for (std::size_t i = 0; i < a.size(); ++i) result[i] += b[i];
  return result;
}

const Tolerance kF32 = tolerance_of(DataType::f32);

}  // namespace

// loss = sum over all samples of sum(weights * y) / (number of samples): the mean of a batch cut unevenly.
TEST(BatchNormCases, Case37UnevenBatchesGiveTheSingleProcessLossAndGradients) {
  for (const int workers : world_sizes()) {
    Problem problem = draw_problem(uneven(workers));
    double samples = 0;
    for (const Input& input : problem.inputs) samples += static_cast<double>(input.shape.n());
    std::vector<Values> weights;
    for (Input& input : problem.inputs) {
      weights.push_back(input.dy);
      for (double& g : input.dy) g /= samples;
      input.dy = rounded_to(DataType::f32, input.dy);
    }
    const std::vector<Outcome> oracle = expected(problem);
    const auto loss_of = [&](const Outcome& outcome, std::size_t w) {
      double loss = 0;
      for (std::size_t i = 0; i < outcome.y.size(); ++i) loss += outcome.y[i] * weights[w][i] / samples;
      return loss;
    };
    double expected_loss = 0;
    for (std::size_t w = 0; w < oracle.size(); ++w) expected_loss += loss_of(oracle[w], w);

    const Outcomes outcomes = run(problem);
    expect_matches(problem, outcomes, oracle);
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const auto me = static_cast<std::size_t>(worker.index());
      double loss = loss_of(*outcomes[me], me);
      worker.all().all_reduce(std::span<double>(&loss, 1), Reduce::sum, {"loss", 1});
      EXPECT_NEAR(loss, expected_loss, 1e-5 + 1.3e-6 * std::abs(expected_loss));
    });
  }
}

// Two batches, one after the other, without zero_grad() between: parameter gradients add up, and dx where asked.
TEST(BatchNormCases, Case38GradientAccumulation) {
  for (const int workers : world_sizes()) {
    const Problem a = draw_problem(uneven(workers), {.seed = 1});
    Problem b = draw_problem(uneven(workers), {.seed = 2});
    b.gamma = a.gamma;
    b.beta = a.beta;
    const auto oracle_a = expected(a), oracle_b = expected(b);
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const auto me = static_cast<std::size_t>(worker.index());
      BatchNorm layer = make_layer(a, worker.group(workers));
      const auto context = BatchNorm::make_context();
      const HostTensor dx = tensor(a.inputs[me]);
      for (const Problem* p : std::initializer_list<const Problem*>{&a, &b}) {
        const Input& input = p->inputs[me];
        const HostTensor x = tensor(input, input.x), dy = tensor(input, input.dy), y = tensor(input);
        layer.forward(Mode::train, x.view(), y.view(), *context, 1);
        layer.backward(x.view(), dy.view(), *context, {.dx = &dx.view(), .accumulate_dx = p == &b}, 1);
      }
      const Outcome &first = oracle_a[me], &second = oracle_b[me];
      expect_close(dx.get(), sum(first.dx, second.dx), kF32, true, "dx");
      expect_close(to_values(layer.weight_grad()), sum(first.weight_grad, second.weight_grad), kF32, true, "d(gamma)");
      expect_close(to_values(layer.bias_grad()), sum(first.bias_grad, second.bias_grad), kF32, true, "d(beta)");
    });
  }
}

TEST(BatchNormCases, Case39TwoForwardsBeforeOneBackward) {
  for (const int workers : world_sizes()) {
    const Problem a = draw_problem(uneven(workers), {.seed = 1});
    Problem b = draw_problem(uneven(workers), {.offset = -4, .seed = 2});
    b.gamma = a.gamma;
    b.beta = a.beta;
    const auto oracle_a = expected(a), oracle_b = expected(b);
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const auto me = static_cast<std::size_t>(worker.index());
      BatchNorm layer = make_layer(a, worker.group(workers));
      const auto context_a = BatchNorm::make_context(), context_b = BatchNorm::make_context();
      const Input &in_a = a.inputs[me], &in_b = b.inputs[me];
      const HostTensor x_a = tensor(in_a, in_a.x), x_b = tensor(in_b, in_b.x), y = tensor(in_a);
      const HostTensor dy_a = tensor(in_a, in_a.dy), dy_b = tensor(in_b, in_b.dy);
      const HostTensor dx_a = tensor(in_a), dx_b = tensor(in_b);
      layer.forward(Mode::train, x_a.view(), y.view(), *context_a, 1);
      layer.forward(Mode::train, x_b.view(), y.view(), *context_b, 1);
      layer.backward(x_b.view(), dy_b.view(), *context_b, {.dx = &dx_b.view()}, 1);
      layer.backward(x_a.view(), dy_a.view(), *context_a, {.dx = &dx_a.view()}, 1);
      expect_close(dx_a.get(), oracle_a[me].dx, kF32, true, "dx of the first");
      expect_close(dx_b.get(), oracle_b[me].dx, kF32, true, "dx of the second");
      expect_close(to_values(layer.weight_grad()), sum(oracle_a[me].weight_grad, oracle_b[me].weight_grad), kF32, true,
                   "d(gamma)");
    });
  }
}

// bn(bn(x)), one set of parameters.
TEST(BatchNormCases, Case40OneLayerTwice) {
  for (const int workers : world_sizes()) {
    const Problem outer = draw_problem(uneven(workers));
    Problem inner = outer;
    const auto inner_y = expected(inner);
    Problem second = outer;
    for (std::size_t w = 0; w < inner_y.size(); ++w) second.inputs[w].x = inner_y[w].y;
    const auto oracle_second = expected(second);
    for (std::size_t w = 0; w < inner_y.size(); ++w) inner.inputs[w].dy = oracle_second[w].dx;
    const auto oracle_first = expected(inner);

    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const auto me = static_cast<std::size_t>(worker.index());
      const Input& input = outer.inputs[me];
      BatchNorm layer = make_layer(outer, worker.group(workers));
      const auto first = BatchNorm::make_context(), again = BatchNorm::make_context();
      const HostTensor x = tensor(input, input.x), dy = tensor(input, input.dy);
      const HostTensor y1 = tensor(input), y2 = tensor(input), d1 = tensor(input), dx = tensor(input);
      layer.forward(Mode::train, x.view(), y1.view(), *first, 1);
      layer.forward(Mode::train, y1.view(), y2.view(), *again, 1);
      layer.backward(y1.view(), dy.view(), *again, {.dx = &d1.view()}, 1);
      layer.backward(x.view(), d1.view(), *first, {.dx = &dx.view()}, 1);
      EXPECT_EQ(layer.num_batches_tracked(), 2);
      expect_close(y2.get(), oracle_second[me].y, kF32, true, "y");
      expect_close(dx.get(), oracle_first[me].dx, kF32, true, "dx");
      expect_close(to_values(layer.weight_grad()), sum(oracle_first[me].weight_grad, oracle_second[me].weight_grad),
                   kF32, true, "d(gamma)");
      expect_close(to_values(layer.bias_grad()), sum(oracle_first[me].bias_grad, oracle_second[me].bias_grad), kF32,
                   true, "d(beta)");
    });
  }
}

// Over all groups, whether or not backward's message has carried the sums of each group already.
TEST(BatchNormCases, Case41ParameterGradientsReducedExactlyOnce) {
  for (const int workers : world_sizes()) {
    for (int group_size = 1; group_size <= workers; ++group_size) {
      if (workers % group_size != 0) continue;
      for (const bool want_dx : {true, false}) {
        Problem problem = draw_problem(uneven(workers));
        problem.group = group_size;
        problem.want_dx = want_dx;
        Problem shares = problem;
        shares.want_dx = false;
        Values total_weight(3), total_bias(3);
        for (const Outcome& share : expected(shares)) {
          total_weight = sum(total_weight, share.weight_grad);
          total_bias = sum(total_bias, share.bias_grad);
        }

        World world = make_world(workers);
        GradientExchange exchange(world, {{0, 6}}, 6, true);
        world.run([&](Worker& worker) {
          const Communicator group = worker.group(group_size);
          BatchNorm layer = make_layer(problem, group);
          run_worker(problem, layer, worker.index());
          EXPECT_EQ(layer.gradients_are_reduced(), want_dx);
          const std::span<float> gradient = exchange.gradient(worker);
          if (!layer.gradients_are_reduced() || group.rank() == 0) {
            std::copy_n(layer.weight_grad().begin(), 3, gradient.begin());
            std::copy_n(layer.bias_grad().begin(), 3, gradient.begin() + 3);
          }
          exchange.begin(worker, 1);
          exchange.ready(worker, 0);
          exchange.wait(worker);
          const Values result = to_values(exchange.result());
          const auto what = fmt::format("{} workers in groups of {}", workers, group_size);
          expect_close({result.begin(), result.begin() + 3}, total_weight, kF32, true, "d(gamma), " + what);
          expect_close({result.begin() + 3, result.end()}, total_bias, kF32, true, "d(beta), " + what);
        });
      }
    }
  }
}

// y = relu(bn(x) + add) in one sweep against three; the residuals hit the threshold exactly in channels 1 and 2.
TEST(BatchNormCases, Case42FusedEqualsUnfused) {
  for (const DataType type : {DataType::f32, DataType::f64}) {
    for (const Layout layout : {Layout::channels_first, Layout::channels_last, Layout::blocked8, Layout::blocked16}) {
      for (const bool with_add : {false, true}) {
        const int workers = std::max(2, job_ranks());
        Problem fused = draw_problem(uneven(workers), {.type = type, .add = with_add});
        fused.x_layout = fused.dy_layout = layout;
        fused.relu = true;
        fused.gamma = {1.25, 0, 0};
        fused.beta = {-0.5, 0.5, 0};
        for (Input& input : fused.inputs) {
          for (std::size_t i = 0; i < input.add.size(); ++i) {
            const auto c = i / 20 % 3;
            if (c == 1 && i % 3 != 0) input.add[i] = i % 3 == 1 ? -0.5 : -0.25;
            if (c == 2 && i % 3 != 0) input.add[i] = i % 3 == 1 ? 0.0 : -0.0;
          }
        }
        Problem plain = fused;
        plain.relu = false;
        for (Input& input : plain.inputs) input.add.clear();

        const auto rounded = [&](double v) {
          return type == DataType::f32 ? static_cast<double>(static_cast<float>(v)) : v;
        };
        const Outcomes forward = run(plain);
        World world = make_world(workers);
        Outcomes unfused(fused.inputs.size());
        // The masked gradient goes through the plain layer's backward pass.
        Problem masked = plain;
        world.run([&](Worker& worker) {
          const auto me = static_cast<std::size_t>(worker.index());
          Input& input = masked.inputs[me];
          Values y = forward[me]->y;
          for (std::size_t i = 0; i < y.size(); ++i) {
            if (with_add) y[i] = rounded(y[i] + fused.inputs[me].add[i]);
            if (!(y[i] > 0)) y[i] = input.dy[i] = 0;
          }
          BatchNorm layer = make_layer(masked, worker.group(workers));
          unfused[me] = run_worker(masked, layer, worker.index());
          unfused[me]->y = y;
          if (with_add) unfused[me]->d_add = input.dy;
        });
        const Outcomes outcomes = run(fused);
        expect_matches(fused, outcomes, expected(fused));
        for (std::size_t w = 0; w < outcomes.size(); ++w) {
          if (!outcomes[w]) continue;
          SCOPED_TRACE(fmt::format("worker {}, {}, {}", w, name_of(layout), with_add ? "add + ReLU" : "ReLU"));
          EXPECT_EQ(outcomes[w]->y, unfused[w]->y);  // -0 and 0 are alike
          EXPECT_EQ(outcomes[w]->dx, unfused[w]->dx);
          EXPECT_EQ(outcomes[w]->d_add, unfused[w]->d_add);
          EXPECT_EQ(outcomes[w]->weight_grad, unfused[w]->weight_grad);
          EXPECT_EQ(outcomes[w]->bias_grad, unfused[w]->bias_grad);
        }
      }
    }
  }
}

TEST(BatchNormCases, Case46TwoBranches) {
  for (const int workers : world_sizes()) {
    const Problem left = draw_problem(uneven(workers), {.seed = 1});
    Problem right = draw_problem(uneven(workers), {.offset = -1, .seed = 2});
    const auto oracle_left = expected(left), oracle_right = expected(right);
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const auto me = static_cast<std::size_t>(worker.index());
      const Communicator group = worker.group(workers);
      BatchNorm bn_left = make_layer(left, group, "left.bn"), bn_right = make_layer(right, group, "right.bn");
      const auto context_left = BatchNorm::make_context(), context_right = BatchNorm::make_context();
      const Input &in_left = left.inputs[me], &in_right = right.inputs[me];
      const HostTensor x_left = tensor(in_left, in_left.x), x_right = tensor(in_right, in_right.x);
      const HostTensor dy_left = tensor(in_left, in_left.dy), dy_right = tensor(in_right, in_right.dy);
      const HostTensor y_left = tensor(in_left), y_right = tensor(in_right);
      const HostTensor dx_left = tensor(in_left), dx_right = tensor(in_right);
      for (std::int64_t step = 0; step < 20; ++step) {
        bn_left.forward(Mode::train, x_left.view(), y_left.view(), *context_left, step);
        bn_right.forward(Mode::train, x_right.view(), y_right.view(), *context_right, step);
        bn_left.backward(x_left.view(), dy_left.view(), *context_left, {.dx = &dx_left.view()}, step);
        bn_right.backward(x_right.view(), dy_right.view(), *context_right, {.dx = &dx_right.view()}, step);
      }
      expect_close(y_left.get(), oracle_left[me].y, kF32, false, "y of the left branch");
      expect_close(y_right.get(), oracle_right[me].y, kF32, false, "y of the right branch");
      expect_close(dx_left.get(), oracle_left[me].dx, kF32, true, "dx of the left branch");
      expect_close(dx_right.get(), oracle_right[me].dx, kF32, true, "dx of the right branch");
    });
  }
}

// The messages of both branches under way at once, each on a stream of its own, finished in the other order.
TEST(BatchNormCases, Case46TwoBranchesAtOnce) {
  for (const int workers : world_sizes()) {
    const Problem left = draw_problem(uneven(workers), {.seed = 1});
    const Problem right = draw_problem(uneven(workers), {.offset = -1, .seed = 2});
    const OracleResult oracle_left = batch_norm_oracle(left.inputs, 3, {});
    const OracleResult oracle_right = batch_norm_oracle(right.inputs, 3, {});
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const auto me = static_cast<std::size_t>(worker.index());
      const auto backend = ops::make_cpu_backend();
      BatchNormPass bn_left(backend->batch_norm(), "left.bn", 3, 1e-5, worker.duplicate());
      BatchNormPass bn_right(backend->batch_norm(), "right.bn", 3, 1e-5, worker.duplicate());
      const HostTensor x_left = tensor(left.inputs[me], left.inputs[me].x);
      const HostTensor x_right = tensor(right.inputs[me], right.inputs[me].x);
      for (std::int64_t step = 0; step < 20; ++step) {
        for (auto [pass, x] : {std::pair(&bn_left, &x_left), std::pair(&bn_right, &x_right)}) {
          pass->begin();
          pass->accumulate(x->view(), {0, x->view().shape.n()});
        }
        bn_left.start(step);
        bn_right.start(step);
        bn_right.finish({}, {});
        bn_left.finish({}, {});
      }
      expect_close({bn_left.mean().begin(), bn_left.mean().end()}, oracle_left.mean, {1e-6, 0}, false, "left");
      expect_close({bn_right.mean().begin(), bn_right.mean().end()}, oracle_right.mean, {1e-6, 0}, false, "right");
    });
  }
}

}  // namespace syncbn::test
