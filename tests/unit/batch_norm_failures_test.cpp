// What is refused, how it is said, and that nothing hangs.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <thread>

#include "nn/normalization/batch_norm_pass.hpp"
#include "support/batch_norm_problem.hpp"
#include "support/worlds.hpp"

namespace syncbn::test {

namespace {

using testing::AllOf;
using testing::HasSubstr;

std::vector<Shape> same(int workers, const Shape& shape) {
  return std::vector<Shape>(static_cast<std::size_t>(workers), shape);
}

template <class Body>
std::string error_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

struct Failure {
  std::string message;
  int rank;  // where it was met
};

// Runs the body in a world with a short time-out, in which something must go wrong in time.
template <class Body>
Failure failure_of(int workers, Body body) {
  WorldOptions options;
  options.workers = workers;
  options.threads = workers;  // so that a late worker holds up nobody but those who wait for it
  options.timeout_s = 2;
  const auto start = std::chrono::steady_clock::now();
  World world = make_world(options);
  const Failure failure{error_of([&] { world.run(body); }), world.rank()};
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  return failure;
}

// The message of an error that every worker must meet alike, after which the group still works.
template <class Body>
void expect_alike_on_all(int workers, const testing::Matcher<std::string>& message, Body body) {
  World world = make_world(workers);
  world.run([&](Worker& worker) {
    const Communicator group = worker.group(workers);
    EXPECT_THAT(error_of([&] { body(worker, group); }), message) << "worker " << worker.index() << " of " << workers;
    group.barrier({"end", 1});
  });
}

}  // namespace

TEST(BatchNormCases, Case05OneValueWithOneWorker) {
  const Problem problem = draw_problem({{1, 3}});
  BatchNorm layer = make_layer(problem, Communicator());
  EXPECT_THAT(error_of([&] { run_worker(problem, layer, 0); }),
              AllOf(HasSubstr("batch_norm 'layer1.0.bn1' (step 1)"), HasSubstr("one value per channel"),
                    HasSubstr("larger batch or group")));
  EXPECT_EQ(layer.num_batches_tracked(), 0);
}

TEST(BatchNormCases, Case06OneValueInAGroupOfSeveral) {
  for (const int workers : world_sizes()) {
    for (int holder = 0; holder < workers; ++holder) {
      std::vector<Shape> shapes = same(workers, {0, 3});
      shapes[holder] = Shape{1, 3};
      const Problem problem = draw_problem(shapes);
      expect_alike_on_all(workers, HasSubstr("one value per channel in the whole group"),
                          [&](Worker& worker, const Communicator& group) {
                            BatchNorm layer = make_layer(problem, group);
                            run_worker(problem, layer, worker.index());
                          });
    }
  }
}

TEST(BatchNormCases, Case12GradientNeededOnSomeOnly) {
  for (const int workers : world_sizes()) {
    if (workers == 1) continue;
    const Problem wanted = draw_problem(same(workers, {2, 3, 4, 4}));
    Problem unwanted = wanted;
    unwanted.want_dx = false;
    EXPECT_THAT(failure_of(workers,
                           [&](Worker& worker) {
                             const Communicator group = worker.group(workers);
                             BatchNorm layer = make_layer(wanted, group);
                             run_worker(worker.index() == 1 ? unwanted : wanted, layer, worker.index());
                             group.barrier({"end of step", 1});
                           })
                    .message,
                HasSubstr("layer1.0.bn1"))
        << workers << " workers";
  }
}

// The rank of the late worker names it; the other ranks name that rank.
TEST(BatchNormCases, Case13WorkerSkipsALayer) {
  for (const int workers : {std::max(2, job_ranks()), 8}) {
    const int late = 1, late_rank = workers == job_ranks() ? late : 0;
    const Problem problem = draw_problem(same(workers, {2, 3, 4, 4}));
    const Failure failure = failure_of(workers, [&](Worker& worker) {
      const Communicator group = worker.group(workers);
      if (worker.index() == late) {  // and for its own next collective, too
        std::this_thread::sleep_for(std::chrono::seconds(4));
        group.barrier({"end of step", 1});
        return;
      }
      BatchNorm layer = make_layer(problem, group);
      run_worker(problem, layer, worker.index());
    });
    const std::string culprit = failure.rank == late_rank ? "worker 1" : fmt::format("rank {}", late_rank);
    EXPECT_THAT(failure.message,
                AllOf(HasSubstr(culprit), HasSubstr("rank"), HasSubstr("layer1.0.bn1"), HasSubstr("step 1")))
        << workers << " workers";
  }
}

TEST(BatchNormCases, Case14MixedTrainAndEval) {
  for (const int workers : world_sizes()) {
    if (workers == 1) continue;
    const Problem problem = draw_problem(same(workers, {2, 3, 4, 4}));
    EXPECT_THAT(failure_of(workers,
                           [&](Worker& worker) {
                             const Communicator group = worker.group(workers);
                             Problem mine = problem;
                             mine.mode = worker.index() == workers - 1 ? Mode::eval : Mode::train;
                             BatchNorm layer = make_layer(mine, group);
                             run_worker(mine, layer, worker.index());
                             group.barrier({"end of step", 1});
                           })
                    .message,
                HasSubstr("layer1.0.bn1"))
        << workers << " workers";
  }
}

TEST(BatchNormCases, Case31NoChannels) {
  EXPECT_THAT(error_of([] { BatchNorm("bn0", 0, {}, Communicator()); }),
              AllOf(HasSubstr("'bn0'"), HasSubstr("at least one channel, not 0")));
}

TEST(BatchNormCases, RefusesNegativeSizes) {
  BatchNorm layer = make_layer(draw_problem({{2, 3, 4, 4}}), Communicator());
  float values[48] = {};
  const auto context = BatchNorm::make_context();
  for (const Shape& shape : {Shape{-1, 3, 4, 4}, Shape{2, 3, -4, 4}, Shape{2, 3, -4, -4}}) {
    const Tensor x{values, shape, DataType::f32, Layout::channels_first};
    EXPECT_THAT(error_of([&] { layer.forward(Mode::train, x, x, *context); }), HasSubstr("negative"));
  }
  EXPECT_THAT(error_of([&] { layer.set_num_batches_tracked(-1); }), HasSubstr("must be >= 0, not -1"));
}

TEST(BatchNormCases, Case44DoubleBackwardIsRefused) {
  const BatchNorm layer("bn1", 3, {}, Communicator());
  try {
    layer.double_backward();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("'bn1'"), HasSubstr("double backward")));
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

TEST(BatchNormCases, Case47NanReachesAll) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const int workers : world_sizes()) {
      Problem problem = draw_problem(same(workers, {2, 3, 4, 4}));
      const int culprit = workers / 2;
      problem.inputs[culprit].x[20] = bad;  // channel 1
      for (const auto& outcome : run(problem)) {
        if (!outcome) continue;
        EXPECT_TRUE(std::isnan(outcome->y[16])) << "y";
        EXPECT_TRUE(std::isnan(outcome->dx[16])) << "dx";
        EXPECT_TRUE(std::isfinite(outcome->y[0])) << "another channel";
        EXPECT_FALSE(std::isfinite(outcome->running_mean[1])) << "running_mean";
        EXPECT_FALSE(std::isfinite(outcome->running_var[1])) << "running_var";
      }

      World world = make_world(workers);
      world.run([&](Worker& worker) {
        const Input& input = problem.inputs[worker.index()];
        const HostTensor x(input.shape, DataType::f32, Layout::channels_first, input.x);
        const auto backend = ops::make_cpu_backend();
        BatchNormPass pass(backend->batch_norm(), "bn1", 3, 1e-5, worker.group(workers));
        pass.begin();
        pass.accumulate(x.view(), {0, 2});
        pass.start(1);
        EXPECT_EQ(pass.local_finite(), worker.index() != culprit);
        pass.finish({}, {});
        EXPECT_FALSE(std::isfinite(pass.mean()[1])) << "every member knows";
        EXPECT_TRUE(std::isnan(pass.var()[1]));

        pass.begin();  // a further batch of the same update, without samples
        pass.start(1);
        pass.finish({}, {});
        EXPECT_EQ(pass.local_finite(), worker.index() != culprit);
        pass.begin_update();
        EXPECT_TRUE(pass.local_finite());
      });
    }
  }
}

TEST(BatchNormCases, Case48ZeroEps) {
  for (const int workers : world_sizes()) {
    Problem problem = draw_problem(same(workers, {2, 3, 4, 4}));
    problem.options.eps = 0;
    expect_matches_oracle(problem);

    for (auto& input : problem.inputs) {  // channel 1 constant, at a value that f32 does not hold exactly
      for (std::size_t i = 0; i < input.x.size(); ++i) {
        if (i / 16 % 3 == 1) input.x[i] = 1234.1;
      }
    }
    expect_alike_on_all(workers, AllOf(HasSubstr("channel 1 has variance 0 and eps is 0"), HasSubstr("use eps > 0")),
                        [&](Worker& worker, const Communicator& group) {
                          BatchNorm layer = make_layer(problem, group);
                          run_worker(problem, layer, worker.index());
                        });
  }
}

TEST(BatchNormErrors, RefusesOptionsOutOfRange) {
  const auto error = [](BatchNormOptions options) {
    return error_of([&] { BatchNorm("bn1", 3, options, Communicator()); });
  };
  EXPECT_THAT(error({.eps = -1e-5}), HasSubstr("eps must be a finite number >= 0"));
  EXPECT_THAT(error({.eps = std::nan("")}), HasSubstr("eps must be a finite number >= 0"));
  EXPECT_THAT(error({.momentum = 1.5}), HasSubstr("momentum must be in [0, 1], not 1.5"));
  EXPECT_THAT(error({.momentum = -0.1}), HasSubstr("momentum must be in [0, 1]"));
}

TEST(BatchNormErrors, RefusesTensorsThatDoNotFit) {
  BatchNorm layer("bn1", 3, {}, Communicator());
  const auto context = BatchNorm::make_context();
  const auto first = Layout::channels_first;
  const HostTensor x({2, 3, 4, 4}, DataType::f32, first), y({2, 3, 4, 4}, DataType::f32, first);
  const auto forward = [&](const Tensor& in, const Tensor& out) {
    return error_of([&] { layer.forward(Mode::eval, in, out, *context); });
  };
  const auto tensor = [](const Shape& shape, DataType type, Layout layout) { return HostTensor(shape, type, layout); };
  EXPECT_EQ(forward(x.view(), y.view()), "no error");
  EXPECT_THAT(forward(tensor({2, 4, 4, 4}, DataType::f32, first).view(), y.view()),
              HasSubstr("4 channels, the layer 3"));
  EXPECT_THAT(forward(tensor({6}, DataType::f32, first).view(), y.view()), HasSubstr("must be [N, C]"));
  EXPECT_THAT(forward(x.view(), tensor({2, 3, 4, 5}, DataType::f32, first).view()), HasSubstr("does not fit x"));
  EXPECT_THAT(forward(x.view(), tensor({2, 3, 4, 4}, DataType::f64, first).view()), HasSubstr("does not fit x"));
  EXPECT_THAT(forward(x.view(), tensor({2, 3, 4, 4}, DataType::f32, Layout::blocked8).view()),
              HasSubstr("does not fit x"));
  EXPECT_THAT(forward(x.view(), x.view()), HasSubstr("y overlaps x"));
  Tensor no_data = y.view();
  no_data.data = nullptr;
  EXPECT_THAT(forward(x.view(), no_data), HasSubstr("has no data"));
}

TEST(BatchNormErrors, RefusesBackwardThatDoesNotFit) {
  BatchNorm layer("bn1", 3, {}, Communicator());
  BatchNorm other("bn2", 3, {}, Communicator());
  const auto context = BatchNorm::make_context();
  const auto first = Layout::channels_first;
  const HostTensor x({2, 3, 4, 4}, DataType::f32, first), y({2, 3, 4, 4}, DataType::f32, first);
  const HostTensor dy({2, 3, 4, 4}, DataType::f32, first), small({1, 3, 4, 4}, DataType::f32, first);
  const auto backward = [&](BatchNorm& who, const Tensor& in, const Tensor& grad, const Tensor& out) {
    return error_of([&] { who.backward(in, grad, *context, {.dx = &out}); });
  };
  EXPECT_THAT(backward(layer, x.view(), dy.view(), y.view()), HasSubstr("needs the context of a forward call"));
  layer.forward(Mode::eval, x.view(), y.view(), *context);
  EXPECT_THAT(backward(other, x.view(), dy.view(), y.view()), HasSubstr("needs the context of a forward call"));
  EXPECT_THAT(backward(layer, small.view(), dy.view(), y.view()), HasSubstr("x of backward"));
  EXPECT_THAT(backward(layer, x.view(), small.view(), y.view()), HasSubstr("dy ([1, 3, 4, 4]"));
  EXPECT_THAT(backward(layer, x.view(), dy.view(), dy.view()), HasSubstr("dx overlaps dy"));
  EXPECT_EQ(backward(layer, x.view(), dy.view(), y.view()), "no error");
}

TEST(BatchNormErrors, RefusesToMixReducedAndLocalGradients) {
  const Input input = draw_input({2, 3, 4, 4}, {}, 0);
  const auto first = Layout::channels_first;
  const HostTensor x(input.shape, DataType::f32, first, input.x), dy(input.shape, DataType::f32, first, input.dy);
  const HostTensor y(input.shape, DataType::f32, first), dx(input.shape, DataType::f32, first);
  BatchNorm layer("bn1", 3, {}, Communicator());
  const auto context = BatchNorm::make_context();
  layer.forward(Mode::train, x.view(), y.view(), *context);
  layer.backward(x.view(), dy.view(), *context, {.dx = &dx.view()});
  EXPECT_TRUE(layer.gradients_are_reduced());
  EXPECT_THAT(error_of([&] { layer.backward(x.view(), dy.view(), *context, {}); }), HasSubstr("zero_grad()"));
  layer.zero_grad();
  EXPECT_EQ(error_of([&] { layer.backward(x.view(), dy.view(), *context, {}); }), "no error");
  EXPECT_FALSE(layer.gradients_are_reduced());
}

}  // namespace syncbn::test
