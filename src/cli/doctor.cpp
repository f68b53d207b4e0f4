#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>

#include "cli/commands.hpp"
#include "cli/cores.hpp"
#include "cli/find_data.hpp"
#include "cli/launch.hpp"
#include "core/text.hpp"
#include "data/catalog/download.hpp"
#include "train/compute.hpp"

namespace syncbn::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::array<std::size_t, 4> kBytes = {264, 4096, 65536, 1 << 20};  // 264 B: statistics of 16 channels
constexpr int kRounds = 101;

void line(const char* what, const std::string& text) {
  fmt::print("{:<11} {}\n", what, text);
}

/// Median time of one all-reduce, in microseconds, as worker 0 sees it.
double median_us(const Worker& worker, std::size_t bytes) {
  std::vector<double> values(bytes / sizeof(double), 1.0);
  std::vector<double> times;
  for (int round = 0; round < kRounds; ++round) {
    worker.all().barrier({"doctor", round});
    const auto start = Clock::now();
    worker.all().all_reduce(values, Reduce::max, {"doctor", round});
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
  return times[kRounds / 2];
}

std::string launch_text(const Job& job) {
  const Launcher launcher = detect_launcher();
  if (launcher.variable.empty()) return "no launcher: workers are threads of one process, MPI is not started";
  std::map<std::string, int> ranks_of;
  for (const std::string& host : job.hosts()) ++ranks_of[host];
  std::string text = fmt::format("{} on {} ({})", counted(job.ranks(), "rank"),
                                 counted(static_cast<std::int64_t>(ranks_of.size()), "host"), launcher.variable);
  for (const auto& [host, ranks] : ranks_of) text += fmt::format(" {}:{}", host, ranks);
  return text;
}

/// Of what the ranks of a machine share: messages, weights, gradients.
std::string shared_memory_text() {
  std::error_code error;
  const auto space = std::filesystem::space("/dev/shm", error);
  if (error) return "no /dev/shm: ranks of a machine reach each other by MPI, and each keeps its own weights";
  return fmt::format("{:.1f} GiB of {:.1f} free in /dev/shm", static_cast<double>(space.available) / (1 << 30),
                     static_cast<double>(space.capacity) / (1 << 30));
}

std::string mpi_text(const Job& job) {
  std::string version = MpiEnvironment::library_version();
  version = version.substr(0, version.find_first_of(",\n"));
  return version + (job.ranks() > 1 || !detect_launcher().variable.empty() ? ", MPI_THREAD_MULTIPLE granted" : "");
}

void print_data() {
  line("data root", data_root());
  for (const RemoteDataset& dataset : remote_datasets()) {
    const auto folder = find_data(dataset.kind, "");
    line("", fmt::format("{:<14} {}", dataset.kind,
                         folder ? *folder : fmt::format("not here (syncbn data get {})", dataset.kind)));
  }
}

void measure_all_reduce(const Job& job, int cores) {
  WorldOptions options;
  options.workers = std::max({2, job.ranks(), job.ranks() == 1 ? cores : 0});
  World world = job.make_world(options);
  std::vector<double> medians;
  run_guarded(world, [&] {
    world.run([&](Worker& worker) {
      for (const std::size_t bytes : kBytes) {
        const double median = median_us(worker, bytes);
        if (worker.index() == 0) medians.push_back(median);
      }
    });
  });
  if (!job.first()) return;
  line("all-reduce",
       fmt::format("{} workers on {}, median of {}:", world.workers(), counted(world.ranks(), "rank"), kRounds));
  for (std::size_t i = 0; i < kBytes.size(); ++i) line("", fmt::format("{:>7} B  {:>9.1f} us", kBytes[i], medians[i]));
}

}  // namespace

ExitCode run_doctor() {
  const Job job;
  const int cores = job.cores_offered();
  if (job.first()) {
    line("program", fmt::format("syncbn {} ({})", SYNCBN_VERSION, __VERSION__));
    line("MPI", mpi_text(job));
    line("launch", launch_text(job));
    line("cores", fmt::format("{} offered in all, {} on this host to rank 0", cores, allowed_cores().size()));
    line("shared", shared_memory_text());
    line("compute", describe_compute());
    line("CUDA", describe_cuda());
    print_data();
    std::fflush(stdout);
  }
  measure_all_reduce(job, cores);
  return ExitCode::ok;
}

}  // namespace syncbn::cli
