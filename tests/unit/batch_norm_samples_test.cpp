// How samples are spread over workers: one batch in any number of pieces, some of them empty.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "support/batch_norm_problem.hpp"
#include "support/worlds.hpp"

namespace syncbn::test {

namespace {

template <class ShapeOf>
std::vector<Shape> shapes_of(int workers, ShapeOf shape_of) {
  std::vector<Shape> shapes;
  for (int w = 0; w < workers; ++w) shapes.push_back(shape_of(w));
  return shapes;
}

Shape without_samples(int worker, int empty) {
  return Shape{worker == empty ? 0 : 2 + worker % 2, 5, 4, 3};
}

}  // namespace

TEST(BatchNormCases, Case01WorkersEqualOneProcessOnTheUnion) {
  for (const int workers : world_sizes()) {
    expect_matches_oracle(draw_problem(shapes_of(workers, [](int) { return Shape{3, 5, 6, 7}; })));
  }
}

TEST(BatchNormCases, Case02UnevenSamples) {
  for (const int workers : world_sizes()) {
    expect_matches_oracle(draw_problem(shapes_of(workers, [](int w) { return Shape{1 + 3 * w % 5, 4, 5, 5}; })));
  }
}

TEST(BatchNormCases, Case03UnevenSpatialSizes) {
  for (const int workers : world_sizes()) {
    expect_matches_oracle(draw_problem(shapes_of(workers, [](int w) { return Shape{2, 4, 3 + w, 9 - w}; })));
  }
}

TEST(BatchNormCases, Case04OneValuePerWorker) {
  for (const int workers : world_sizes()) {
    if (workers == 1) continue;
    expect_matches_oracle(draw_problem(shapes_of(workers, [](int) { return Shape{1, 6}; })));
    expect_matches_oracle(draw_problem(shapes_of(workers, [](int) { return Shape{1, 6, 1, 1}; })));
  }
}

TEST(BatchNormCases, Case07OneEmptyWorker) {
  for (const int workers : world_sizes()) {
    if (workers == 1) continue;
    for (int empty = 1; empty < workers; ++empty) {
      expect_matches_oracle(draw_problem(shapes_of(workers, [&](int w) { return without_samples(w, empty); })));
    }
  }
}

TEST(BatchNormCases, Case08OneEmptyWorkerBf16) {
  const Draw draw{.type = DataType::bf16};
  for (const int workers : world_sizes()) {
    if (workers == 1) continue;
    const int empty = workers - 1;
    expect_matches_oracle(draw_problem(shapes_of(workers, [&](int w) { return without_samples(w, empty); }), draw));
  }
}

TEST(BatchNormCases, Case09AllEmpty) {
  for (const int workers : world_sizes()) {
    Problem problem = draw_problem(shapes_of(workers, [](int) { return Shape{0, 3, 4, 4}; }));
    problem.running_mean = {0.5, -1, 2};
    problem.running_var = {0.25, 4, 1};
    problem.batches_tracked = 7;
    expect_matches_oracle(problem);
    for (const auto& outcome : run(problem)) {
      if (!outcome) continue;
      EXPECT_EQ(outcome->running_mean, problem.running_mean);
      EXPECT_EQ(outcome->running_var, problem.running_var);
      EXPECT_EQ(outcome->batches_tracked, 7);
      EXPECT_EQ(outcome->weight_grad, Values(3, 0));
      EXPECT_EQ(outcome->bias_grad, Values(3, 0));
    }
  }
}

// The others wait for an empty worker's messages: there is exactly one forward and one backward, of the agreed sizes,
// even when everybody is empty.
TEST(BatchNormCases, Case09AllEmptyStillSendsItsMessages) {
  for (const int workers : world_sizes()) {
    const Problem problem = draw_problem(shapes_of(workers, [](int) { return Shape{0, 3, 4, 4}; }));
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const Communicator group = worker.group(workers);
      if (worker.index() == 0) {
        BatchNorm layer = make_layer(problem, group);
        run_worker(problem, layer, 0);
      } else {
        std::vector<double> forward(1 + 2 * 3), backward(2 * 3);
        group.all_reduce(std::span<double>(forward), Reduce::sum, {"layer1.0.bn1", 1});
        group.all_reduce(std::span<double>(backward), Reduce::sum, {"layer1.0.bn1", 1});
      }
      group.barrier({"end", 2});
    });
  }
}

TEST(BatchNormCases, Case10EmptyWorkerZero) {
  for (const int workers : world_sizes()) {
    if (workers == 1) continue;
    expect_matches_oracle(draw_problem(shapes_of(workers, [](int w) { return without_samples(w, 0); })));
  }
}

TEST(BatchNormCases, Case32OneWorkerPathEqualsManyWorkerPath) {
  const Problem alone = draw_problem({{3, 4, 5, 6}}, {.offset = 3, .add = true});
  BatchNorm local = make_layer(alone, Communicator());
  const Outcome reference = run_worker(alone, local, 0);
  const std::vector<Outcome> oracle = expected(alone);
  expect_matches(alone, {reference}, oracle);

  for (const int workers : world_sizes()) {
    // Each worker a group of its own.
    Problem apart = alone;
    apart.inputs.assign(static_cast<std::size_t>(workers), alone.inputs[0]);
    apart.group = 1;
    // All samples on one of the workers that form a group.
    Problem together = alone;
    together.inputs.assign(static_cast<std::size_t>(workers), Input{Shape{0, 4, 5, 6}, {}, {}, {}});
    const auto holder = static_cast<std::size_t>(workers / 2);
    together.inputs[holder] = alone.inputs[0];

    for (const auto& outcome : run(apart)) {
      if (outcome) expect_bit_equal(*outcome, reference, fmt::format("a group of one in {} workers", workers));
    }
    const Outcomes outcomes = run(together);
    if (outcomes[holder]) {
      expect_bit_equal(*outcomes[holder], reference, fmt::format("the only worker with samples of {}", workers));
    }
  }
}

TEST(BatchNormCases, Case36GroupsAreIndependent) {
  for (const int workers : world_sizes()) {
    for (int group = 1; group <= workers; ++group) {
      if (workers % group != 0) continue;
      Problem problem = draw_problem(shapes_of(workers, [](int w) { return Shape{1 + w % 3, 3, 4, 4}; }));
      problem.group = group;
      expect_matches_oracle(problem);
    }
  }
}

TEST(BatchNormCases, Case36NanStaysInItsGroup) {
  for (const int workers : world_sizes()) {
    if (workers % 2 != 0 || workers == 2) continue;
    const Problem clean = [&] {
      Problem p = draw_problem(shapes_of(workers, [](int) { return Shape{2, 3, 4, 4}; }));
      p.group = 2;
      return p;
    }();
    Problem broken = clean;
    broken.inputs[1].x[5] = std::nan("");
    const Outcomes before = run(clean), after = run(broken);
    for (std::size_t w = 0; w < after.size(); ++w) {
      if (!after[w]) continue;
      if (w < 2) {
        EXPECT_TRUE(std::isnan(after[w]->y[0])) << "worker " << w;
      } else {
        expect_bit_equal(*after[w], *before[w], fmt::format("worker {}", w));
      }
    }
  }
}

// Layers kept inside other objects, moved and converted, still belong to the group they were made with.
TEST(BatchNormCases, Case36NestedLayerKeepsItsGroup) {
  struct Block {
    std::vector<BatchNorm> norms;
  };
  for (const int workers : world_sizes()) {
    if (workers % 2 != 0) continue;
    Problem problem = draw_problem(shapes_of(workers, [](int) { return Shape{2, 3, 4, 4}; }));
    problem.group = 2;
    const std::vector<Outcome> oracle = expected(problem);
    World world = make_world(workers);
    Outcomes outcomes(problem.inputs.size());
    world.run([&](Worker& worker) {
      const Communicator pair = worker.group(2);
      std::vector<Block> blocks(2);
      for (int i = 0; i < 4; ++i) blocks[1].norms.push_back(make_layer(problem, pair, fmt::format("norms.{}", i)));
      std::vector<Block> moved = std::move(blocks);
      BatchNorm nested = moved[1].norms[3].convert(moved[1].norms[3].group());
      EXPECT_EQ(nested.group().size(), 2);
      outcomes[worker.index()] = run_worker(problem, nested, worker.index());
    });
    expect_matches(problem, outcomes, oracle);
  }
}

}  // namespace syncbn::test
