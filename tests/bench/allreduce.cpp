// All-reduce of f64 over workers against MPI_Allreduce of the same processes: called in a row ("hot"), and with work in
// between that has pushed the messages' buffers out of the first-level caches, as in a training ("cold"). And against
// the bare exchange, what the cores need to see each other's values and to add them, when nothing else is done.

#include <fmt/format.h>
#include <mpi.h>

#include <array>
#include <atomic>
#include <new>
#include <optional>

#include "bench/measure.hpp"
#include "bench/processes.hpp"

namespace syncbn::bench {
namespace {

constexpr int kBlocks = 7;

/// The same sums through shared memory, without headers, checks, communicators, or a limit to the wait: as few passes
/// as there can be between caches. Only where every process has a core, and for short messages.
class BareExchange {
 public:
  static constexpr std::size_t kMostValues = 8192;

  explicit BareExchange(MPI_Comm comm) {
    MPI_Comm_size(comm, &ranks_), MPI_Comm_rank(comm, &rank_);
    void* base = nullptr;
    MPI_Win_allocate_shared(sizeof(Segment), 1, MPI_INFO_NULL, comm, &base, &window_);
    new (base) Segment;
    for (int rank = 0; rank < ranks_; ++rank) {
      MPI_Aint size = 0;
      int unit = 0;
      MPI_Win_shared_query(window_, rank, &size, &unit, &base);
      segments_.push_back(static_cast<Segment*>(base));
    }
    MPI_Barrier(comm);
  }
  ~BareExchange() { MPI_Win_free(&window_); }
  BareExchange(const BareExchange&) = delete;
  BareExchange& operator=(const BareExchange&) = delete;

  /// Everybody adds everything.
  void one_step(std::vector<double>& values) {
    post(values);
    add(values.data(), 0, values.size());
  }
  /// Everybody adds a part, and collects the others'.
  void two_steps(std::vector<double>& values) {
    post(values);
    const auto begin = [&](int rank) {
      return values.size() * static_cast<std::size_t>(rank) / segments_.size() / 8 * 8;
    };
    const auto end = [&](int rank) { return rank + 1 == ranks_ ? values.size() : begin(rank + 1); };
    add(buffer(rank_) + begin(rank_), begin(rank_), end(rank_));
    announce(&Segment::added);
    for (int rank = 0; rank < ranks_; ++rank)
      std::copy(buffer(rank) + begin(rank), buffer(rank) + end(rank), values.data() + begin(rank));
  }

 private:
  struct Segment {
    alignas(64) std::atomic<std::uint64_t> posted{0};
    alignas(64) std::atomic<std::uint64_t> added{0};
    alignas(64) std::array<std::array<double, kMostValues>, 2> values;
  };

  double* buffer(int rank) const { return segments_[rank]->values[number_ % 2].data(); }
  void announce(std::atomic<std::uint64_t> Segment::*flag) {
    (segments_[rank_]->*flag).store(number_, std::memory_order_release);
    for (Segment* segment : segments_)
      while ((segment->*flag).load(std::memory_order_acquire) < number_) {
      }
  }
  void post(const std::vector<double>& values) {
    ++number_;
    std::copy(values.begin(), values.end(), buffer(rank_));
    announce(&Segment::posted);
  }
  void add(double* into, std::size_t begin, std::size_t end) const {
    for (std::size_t i = begin; i < end; ++i) {
      double sum = 0;
      for (int rank = 0; rank < ranks_; ++rank) sum += buffer(rank)[i];
      into[i - begin] = sum;
    }
  }

  int ranks_ = 0, rank_ = 0;
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<Segment*> segments_;
  std::uint64_t number_ = 0;
};

/// What one worker measures; all workers call everything in the same order.
class AllReduceBench {
 public:
  AllReduceBench(Worker& worker, bool against_mpi) : worker_(worker), against_mpi_(against_mpi), work_(64 * 1024, 1.0) {
    if (!against_mpi_) return;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
    if (worker.all().size() <= Processes::cores()) bare_.emplace(comm_);
  }
  ~AllReduceBench() {
    bare_.reset();
    if (against_mpi_) MPI_Comm_free(&comm_);
  }
  AllReduceBench(const AllReduceBench&) = delete;
  AllReduceBench& operator=(const AllReduceBench&) = delete;

  bool validate(std::size_t count) {
    const int size = worker_.all().size();
    std::vector<double> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<double>(i) + worker_.index();
    const std::vector<double> given = values;
    const auto good = [&] {
      for (std::size_t i = 0; i < count; ++i)
        if (values[i] != static_cast<double>(i) * size + size * (size - 1) / 2.0) return false;
      return true;
    };
    ours(values);
    if (!good()) return false;
    if (!bare_ || count > BareExchange::kMostValues) return true;
    values = given, bare_->one_step(values);
    if (!good()) return false;
    values = given, bare_->two_steps(values);
    return good();
  }

  void measure(std::size_t count, bool quick) {
    std::vector<double> values(count, 0.0);
    const double bytes = static_cast<double>(count * sizeof(double));
    const int calls = static_cast<int>(std::clamp((quick ? 1e6 : 2e7) / (bytes + 2e4), 1.0, quick ? 20.0 : 500.0));
    std::vector<double> hot, cold, mpi_hot, mpi_cold, bare, hot_ratio, cold_ratio, bare_ratio;
    for (int b = 0; b < (quick ? 2 : kBlocks); ++b) {
      const double work = timed(calls, [&] { this->work(); });
      hot.push_back(timed(calls, [&] { ours(values); }));
      cold.push_back(timed(calls, [&] { this->work(), ours(values); }) - work);
      if (!against_mpi_) continue;
      mpi_hot.push_back(timed(calls, [&] { mpi(values); }));
      mpi_cold.push_back(timed(calls, [&] { this->work(), mpi(values); }) - work);
      hot_ratio.push_back(mpi_hot.back() / hot.back()), cold_ratio.push_back(mpi_cold.back() / cold.back());
      if (!bare_ || count > BareExchange::kMostValues) continue;
      bare.push_back(
          std::min(timed(calls, [&] { bare_->one_step(values); }), timed(calls, [&] { bare_->two_steps(values); })));
      bare_ratio.push_back(mpi_hot.back() / bare.back());
    }
    if (worker_.index() != 0) return;
    const auto peer = [&](const std::vector<double>& v, double scale) {
      return v.empty() ? std::string("-") : fmt::format("{:.2f}", scale * median(v));
    };
    fmt::print("{:>10} {:>10.2f} {:>10} {:>6} {:>8} {:>6}   {:>10.2f} {:>10} {:>6}\n", count * sizeof(double),
               1e6 * median(hot), peer(mpi_hot, 1e6), peer(hot_ratio, 1), peer(bare, 1e6), peer(bare_ratio, 1),
               1e6 * median(cold), peer(mpi_cold, 1e6), peer(cold_ratio, 1));
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
  std::optional<BareExchange> bare_;
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
        "bare: the exchange with nothing else\n"
        "{:>10} {:>10} {:>10} {:>6} {:>8} {:>6}   {:>10} {:>10} {:>6}\n",
        world.workers(), world.ranks(), "bytes", "hot", "MPI", "ratio", "bare", "ratio", "cold", "MPI", "ratio");
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
