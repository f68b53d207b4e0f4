// Synchronized batch normalization in an MPI program of one's own: every rank is one worker that holds two samples, and
// the statistics are those of the samples of all ranks.
//
//   mpirun -n 4 ./consumer

#include <mpi.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include <syncbn/comm/world.hpp>
#include <syncbn/nn/batch_norm.hpp>

namespace {

constexpr std::int64_t kSamples = 2, kChannels = 3, kPositions = 4;
constexpr std::int64_t kPerRank = kSamples * kPositions;  // values per channel

// The values of a channel, over all ranks, are offset + 0, 1, 2, ..., M - 1: mean and variance have closed forms.
double offset_of(std::int64_t channel) {
  return 10.0 * static_cast<double>(channel);
}

// Calls body(index in a [N, C, positions] tensor, channel, rank of the value in its channel).
template <class Body>
void for_each_value(int rank, Body body) {
  for (std::int64_t n = 0; n < kSamples; ++n) {
    for (std::int64_t c = 0; c < kChannels; ++c) {
      for (std::int64_t p = 0; p < kPositions; ++p) {
        const std::int64_t number = rank * kPerRank + n * kPositions + p;
        body(static_cast<std::size_t>((n * kChannels + c) * kPositions + p), c, static_cast<double>(number));
      }
    }
  }
}

double largest_error(syncbn::Worker& worker) {
  const auto size = static_cast<std::size_t>(kSamples * kChannels * kPositions);
  std::vector<float> x(size), y(size), dy(size), dx(size);
  const auto tensor = [](std::vector<float>& data) {
    return syncbn::Tensor{
        data.data(), {kSamples, kChannels, kPositions}, syncbn::DataType::f32, syncbn::Layout::channels_first};
  };
  // The gradient is the square of the value's number.
  for_each_value(worker.index(), [&](std::size_t i, std::int64_t c, double number) {
    x[i] = static_cast<float>(offset_of(c) + number);
    dy[i] = static_cast<float>(number * number);
  });

  syncbn::BatchNorm norm("norm", kChannels, {}, worker.all());
  const auto context = syncbn::BatchNorm::make_context();
  norm.forward(syncbn::Mode::train, tensor(x), tensor(y), *context);
  const syncbn::Tensor dx_tensor = tensor(dx);
  norm.backward(tensor(x), tensor(dy), *context, {.dx = &dx_tensor});

  // The same by hand.
  const auto m = static_cast<double>(worker.all().size() * kPerRank);
  const double mean = (m - 1) / 2, invstd = 1 / std::sqrt((m * m - 1) / 12 + norm.options().eps);
  double a = 0, b = 0;
  for (double v = 0; v < m; ++v) {
    a += v * v;
    b += v * v * (v - mean) * invstd;
  }
  double worst = 0;
  const auto compare = [&](double actual, double expected) {
    const double error = std::abs(actual - expected) / std::fmax(1, std::abs(expected));
    worst = error <= worst ? worst : error;  // a NaN counts, too
  };
  for_each_value(worker.index(), [&](std::size_t i, std::int64_t, double number) {
    const double xhat = (number - mean) * invstd;
    compare(y[i], xhat);
    compare(dx[i] / m, invstd * (number * number - a / m - xhat * b / m) / m);
  });
  for (std::size_t c = 0; c < kChannels; ++c) {
    compare(norm.weight_grad()[c], b);
    compare(norm.bias_grad()[c], a);
    compare(norm.running_mean()[c], 0.1 * (offset_of(static_cast<std::int64_t>(c)) + mean));
    compare(norm.running_var()[c], 0.9 + 0.1 * (m * m - 1) / 12 * m / (m - 1));
  }
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  int rank = 0, ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  try {
    syncbn::WorldOptions options;
    options.workers = ranks;
    syncbn::World world = syncbn::World::mpi(options, static_cast<int>(MPI_Comm_c2f(MPI_COMM_WORLD)));
    double error = 0;
    world.run([&](syncbn::Worker& worker) { error = largest_error(worker); });
    error = world.max_over_ranks(error);
    if (!(error < 1e-5)) {
      std::fprintf(stderr, "rank %d: largest error %g\n", rank, error);
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
    if (rank == 0) std::printf("OK: %d ranks, largest error %.1e\n", ranks, error);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d: %s\n", rank, e.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return 0;
}
