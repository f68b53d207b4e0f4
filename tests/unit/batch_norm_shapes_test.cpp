// Layouts, ranks of tensors, numbers of channels.

#include <gtest/gtest.h>

#include "support/batch_norm_problem.hpp"
#include "support/worlds.hpp"

namespace syncbn::test {

namespace {

constexpr Layout kLayouts[] = {Layout::channels_first, Layout::channels_last, Layout::blocked8, Layout::blocked16};

int few_workers() {
  return std::max(2, job_ranks());
}

}  // namespace

TEST(BatchNormCases, Case29LayoutsAreEquivalent) {
  for (const DataType type : {DataType::f32, DataType::f64, DataType::f16, DataType::bf16}) {
    for (const std::int64_t channels : {3, 16, 19}) {
      const std::vector<Shape> shapes(static_cast<std::size_t>(few_workers()), Shape{2, channels, 5, 3});
      for (const bool fused : {false, true}) {
        Problem problem = draw_problem(shapes, {.type = type, .add = fused});
        problem.relu = fused;
        const std::vector<Outcome> oracle = expected(problem);
        for (const Layout layout : kLayouts) {
          problem.x_layout = problem.dy_layout = layout;
          SCOPED_TRACE(name_of(layout));
          expect_matches(problem, run(problem), oracle);
        }
      }
    }
  }
}

TEST(BatchNormCases, Case29MixedLayouts) {
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    Problem problem =
        draw_problem(std::vector<Shape>(static_cast<std::size_t>(few_workers()), Shape{2, 19, 5, 3}), {.type = type});
    problem.relu = true;
    const std::vector<Outcome> oracle = expected(problem);
    for (const Layout x_layout : kLayouts) {
      for (const Layout dy_layout : kLayouts) {
        problem.x_layout = x_layout;
        problem.dy_layout = dy_layout;
        SCOPED_TRACE(std::string(name_of(x_layout)) + " x, " + name_of(dy_layout) + " dy");
        expect_matches(problem, run(problem), oracle);
      }
    }
  }
}

TEST(BatchNormCases, Case30RanksOfTensors) {
  for (const Shape& shape : {Shape{5, 6}, Shape{3, 6, 7}, Shape{2, 6, 5, 4}, Shape{2, 6, 3, 4, 2}}) {
    for (const Layout layout : kLayouts) {
      for (const int workers : world_sizes()) {
        Problem problem = draw_problem(std::vector<Shape>(static_cast<std::size_t>(workers), shape));
        problem.x_layout = problem.dy_layout = layout;
        SCOPED_TRACE(shape.str() + " " + name_of(layout));
        expect_matches_oracle(problem);
      }
    }
  }
}

TEST(BatchNormCases, Case31NumbersOfChannels) {
  for (const std::int64_t channels : {1, 3, 27, 2048}) {
    for (const Layout layout : kLayouts) {
      Problem problem =
          draw_problem(std::vector<Shape>(static_cast<std::size_t>(few_workers()), Shape{2, channels, 3, 3}));
      problem.x_layout = problem.dy_layout = layout;
      SCOPED_TRACE(std::to_string(channels) + " channels, " + name_of(layout));
      expect_matches_oracle(problem);
    }
  }
}

}  // namespace syncbn::test
