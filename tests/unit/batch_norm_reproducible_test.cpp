// The same bits: over steps, runs, threads, ranks, and with or without overlap.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "comm/gradients/gradient_exchange.hpp"
#include "support/batch_norm_problem.hpp"
#include "support/tree_oracle.hpp"
#include "support/worlds.hpp"

namespace syncbn::test {

namespace {

std::vector<Shape> uneven(int workers) {
  std::vector<Shape> shapes;
  for (int w = 0; w < workers; ++w) shapes.push_back({w % 4, 19, 5, 7});  // worker 0 and 4 have none
  if (workers == 1) shapes[0] = {2, 19, 5, 7};
  return shapes;
}

struct Chain {
  std::vector<float> gradient;  ///< of both layers, summed over all workers
  Values dx;
};

// Two layers; the second one's gradient bucket is under way while the first one's statistics travel.
std::vector<Chain> run_chain(const Problem& problem, bool overlap) {
  World world = make_world(problem.workers());
  const auto c = static_cast<std::size_t>(problem.channels);
  const auto bucket = static_cast<std::int64_t>(2 * c);
  GradientExchange exchange(world, {{bucket, bucket}, {0, bucket}}, 2 * bucket, overlap);
  std::vector<Chain> chains(problem.inputs.size());
  world.run([&](Worker& worker) {
    const Communicator group = worker.group(problem.group_size());
    BatchNorm layers[2] = {make_layer(problem, group, "bn1"), make_layer(problem, group, "bn2")};
    const Input& input = problem.inputs[worker.index()];
    const HostTensor x(input.shape, problem.type, problem.x_layout, input.x);
    const HostTensor dy(input.shape, problem.type, problem.x_layout, input.dy);
    const HostTensor y1(input.shape, problem.type, problem.x_layout), y2(input.shape, problem.type, problem.x_layout);
    const HostTensor d1(input.shape, problem.type, problem.x_layout), dx(input.shape, problem.type, problem.x_layout);
    const std::shared_ptr<BatchNorm::Context> contexts[2] = {BatchNorm::make_context(), BatchNorm::make_context()};
    const std::span<float> gradient = exchange.gradient(worker);
    // Every member of a group holds the group's sum: one of them speaks for it.
    const auto collect = [&](std::size_t layer) {
      if (layers[layer].gradients_are_reduced() && group.rank() != 0) return;
      const auto at = gradient.begin() + static_cast<std::ptrdiff_t>(layer * 2 * c);
      std::copy_n(layers[layer].weight_grad().begin(), c, at);
      std::copy_n(layers[layer].bias_grad().begin(), c, at + static_cast<std::ptrdiff_t>(c));
    };
    for (std::int64_t step = 0; step < 5; ++step) {
      std::fill(gradient.begin(), gradient.end(), 0.0F);
      for (auto& layer : layers) layer.zero_grad();
      layers[0].forward(Mode::train, x.view(), y1.view(), *contexts[0], step);
      layers[1].forward(Mode::train, y1.view(), y2.view(), *contexts[1], step);
      exchange.begin(worker, step);
      layers[1].backward(y1.view(), dy.view(), *contexts[1], {.dx = &d1.view()}, step);
      collect(1);
      exchange.ready(worker, 0);
      layers[0].backward(x.view(), d1.view(), *contexts[0], {.dx = &dx.view()}, step);
      collect(0);
      exchange.ready(worker, 1);
      exchange.wait(worker);
    }
    const std::span<const float> sums = exchange.result();
    chains[worker.index()] = {{sums.begin(), sums.end()}, dx.get()};
  });
  return chains;
}

}  // namespace

TEST(BatchNormCases, Case33RunningStatisticsBitEqualOnAllWorkers) {
  constexpr int kSteps = 100;
  for (const int workers : world_sizes()) {
    Problem problem = draw_problem(uneven(workers), {.offset = 30, .spread = 0.7});
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const Communicator group = worker.group(workers);
      BatchNorm layer = make_layer(problem, group);
      Problem batch = problem;
      for (int step = 0; step < kSteps; ++step) {
        const auto me = static_cast<std::size_t>(worker.index());
        const Draw draw{.offset = 30, .spread = 0.7, .seed = 10 + static_cast<std::uint64_t>(step)};
        batch.inputs[me] = draw_input(problem.inputs[me].shape, draw, worker.index());
        run_worker(batch, layer, worker.index());
      }
      for (const std::span<float> statistics : {layer.running_mean(), layer.running_var()}) {
        std::vector<float> largest(statistics.begin(), statistics.end()), smallest = largest;
        group.all_reduce(std::span<float>(largest), Reduce::max, {"largest", kSteps});
        group.all_reduce(std::span<float>(smallest), Reduce::min, {"smallest", kSteps});
        EXPECT_EQ(largest, smallest);
        EXPECT_EQ(std::vector<float>(statistics.begin(), statistics.end()), largest);
      }
    });
  }
}

TEST(BatchNormCases, Case34TwoRunsBitEqual) {
  for (const int workers : world_sizes()) {
    Problem problem = draw_problem(uneven(workers), {.add = true});
    problem.relu = true;
    expect_bit_equal(run(problem), run(problem), fmt::format("{} workers", workers));
  }
}

// The threads of this process alone give the bits of any job: so jobs of any number of ranks give the same.
TEST(BatchNormCases, Case35RanksAndThreadsBitEqual) {
  for (const DataType type : {DataType::f32, DataType::f64, DataType::bf16}) {
    for (const Layout layout : {Layout::channels_first, Layout::blocked16}) {
      for (const int workers : world_sizes()) {
        Problem problem = draw_problem(uneven(workers), {.offset = 5, .type = type});
        problem.x_layout = problem.dy_layout = layout;
        const Outcomes reference = run(problem);
        for (const int threads : {1, 2, 3}) {
          expect_bit_equal(reference, run_in_threads(problem, threads),
                           fmt::format("{} ranks against {} threads, {} workers", job_ranks(), threads, workers));
        }
      }
    }
  }
}

// ((0 1) (2 3)) ((4 5) (6 7)), with values whose sum tells the order of the additions.
TEST(BatchNormCases, Case35SumsFollowTheTreeOfWorkers) {
  constexpr std::size_t kCount = 50;
  for (const int workers : world_sizes()) {
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      std::vector<double> sums(kCount);
      for (std::size_t i = 0; i < kCount; ++i) sums[i] = nasty<double>(worker.index(), i);
      worker.group(workers).all_reduce(std::span<double>(sums), Reduce::sum, {"order", 1});
      EXPECT_EQ(sums, tree_sum<double>(0, workers, kCount));
    });
  }
}

TEST(BatchNormCases, Case49OverlapOnAndOffBitEqual) {
  for (const int workers : world_sizes()) {
    for (const int group : {workers, 1}) {
      Problem problem = draw_problem(std::vector<Shape>(static_cast<std::size_t>(workers), Shape{2, 19, 5, 7}));
      problem.group = group;
      const auto with = run_chain(problem, true), without = run_chain(problem, false);
      for (std::size_t w = 0; w < with.size(); ++w) {
        EXPECT_EQ(with[w].gradient, without[w].gradient) << "worker " << w << " of " << workers;
        EXPECT_TRUE(bit_equal(with[w].dx, without[w].dx)) << "worker " << w << " of " << workers;
      }
    }
  }
}

}  // namespace syncbn::test
