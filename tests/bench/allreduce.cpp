// All-reduce of f64 over workers against MPI_Allreduce of the same processes: called in a row ("hot"), and with work in
// between that has pushed the messages' buffers out of the first-level caches, as in a training ("cold").

#include <fmt/format.h>
#include <mpi.h>

#include <numeric>

#include "bench/measure.hpp"
#include "bench/processes.hpp"

namespace syncbn::bench {
namespace {

constexpr int kBlocks = 7;

/// What one worker measures; all workers call everything in the same order.
class AllReduceBench {
 public:
  AllReduceBench(Worker& worker, bool against_mpi) : worker_(worker), against_mpi_(against_mpi), work_(64 * 1024, 1.0) {
    if (against_mpi_) MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
  }
  ~AllReduceBench() {
    if (against_mpi_) MPI_Comm_free(&comm_);
  }
  AllReduceBench(const AllReduceBench&) = delete;
  AllReduceBench& operator=(const AllReduceBench&) = delete;

  bool validate(std::size_t count) {
    const int size = worker_.all().size();
    std::vector<double> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<double>(i) + worker_.index();
    ours(values);
    for (std::size_t i = 0; i < count; ++i) {
      if (values[i] != static_cast<double>(i) * size + size * (size - 1) / 2.0) return false;
    }
    return true;
  }

  void measure(std::size_t count, bool quick) {
    std::vector<double> values(count, 0.0);
    const double bytes = static_cast<double>(count * sizeof(double));
    const int calls = static_cast<int>(std::clamp((quick ? 1e6 : 2e7) / (bytes + 2e4), 1.0, quick ? 20.0 : 500.0));
    std::vector<double> hot, cold, mpi_hot, mpi_cold, hot_ratio, cold_ratio;
    for (int b = 0; b < (quick ? 2 : kBlocks); ++b) {
      const double work = timed(calls, [&] { this->work(); });
      hot.push_back(timed(calls, [&] { ours(values); }));
      cold.push_back(timed(calls, [&] { this->work(), ours(values); }) - work);
      if (!against_mpi_) continue;
      mpi_hot.push_back(timed(calls, [&] { mpi(values); }));
      mpi_cold.push_back(timed(calls, [&] { this->work(), mpi(values); }) - work);
      hot_ratio.push_back(mpi_hot.back() / hot.back()), cold_ratio.push_back(mpi_cold.back() / cold.back());
    }
    if (worker_.index() != 0) return;
    const auto peer = [&](const std::vector<double>& v, double scale) {
      return against_mpi_ ? fmt::format("{:.2f}", scale * median(v)) : std::string("-");
    };
    fmt::print("{:>10} {:>12.2f} {:>12} {:>8}   {:>12.2f} {:>12} {:>8}\n", count * sizeof(double), 1e6 * median(hot),
               peer(mpi_hot, 1e6), peer(hot_ratio, 1), 1e6 * median(cold), peer(mpi_cold, 1e6), peer(cold_ratio, 1));
    std::fflush(stdout);
  }

 private:
  void ours(std::vector<double>& values) {
    worker_.all().all_reduce(std::span(values), Reduce::sum, {"bench", step_++});
  }
  void mpi(std::vector<double>& values) {
    MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM, comm_);
  }
  void work() {
    for (double& w : work_) w = w * 0.5 + 1;
  }
  template <class Call>
  double timed(int calls, Call call) {
    call();
    worker_.all().barrier({"block", step_++});
    const double begin = wall_seconds();
    for (int i = 0; i < calls; ++i) call();
    return (wall_seconds() - begin) / calls;
  }

  Worker& worker_;
  bool against_mpi_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::vector<double> work_;
  std::int64_t step_ = 0;
};

int run(const Arguments& arguments) {
  const Processes processes;
  const bool against_mpi = processes.ranks() > 1;  // one worker a rank; alone: workers of one process
  World world = processes.world(against_mpi ? processes.ranks() : std::max(2, Processes::cores()));
  const std::vector<std::size_t> counts = {33, 128, 512, 4096, 1 << 17, 1 << 20, 1 << 23};
  bool good = true;
  if (processes.first() && !arguments.validate) {
    fmt::print(
        "All-reduce of f64, {} workers on {} ranks, microseconds; ratio: how many times as fast as MPI_Allreduce\n"
        "{:>10} {:>12} {:>12} {:>8}   {:>12} {:>12} {:>8}\n",
        world.workers(), world.ranks(), "bytes", "hot", "MPI", "ratio", "cold", "MPI", "ratio");
  }
  world.run([&](Worker& worker) {
    AllReduceBench bench(worker, against_mpi);
    for (const std::size_t count : counts) {
      if (!arguments.validate && !(arguments.quick && count > 4096)) {
        bench.measure(count, arguments.quick);
      } else if (count <= 1 << 17 && !bench.validate(count)) {
        good = false;
      }
    }
  });
  if (processes.first() && arguments.validate) fmt::print("all-reduce: {}\n", good ? "valid" : "NOT VALID");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace syncbn::bench

int main(int argc, char** argv) {
  return syncbn::bench::run({argc, argv});
}
