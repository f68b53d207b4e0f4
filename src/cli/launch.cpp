#include "cli/launch.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "cli/cores.hpp"
#include "cli/log.hpp"
#include "core/build_id.hpp"
#include "core/console.hpp"
#include "syncbn/core/error.hpp"
#include "train/compute.hpp"
#include "train/explain/explain.hpp"

namespace syncbn::cli {
namespace {

struct LauncherVariables {
  const char* ranks;
  const char* rank;
};
// mpirun starts its daemons through srun, so the more specific ones come first.
constexpr std::array<LauncherVariables, 6> kLaunchers = {{{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
                                                          {"PMI_SIZE", "PMI_RANK"},
                                                          {"PALS_SIZE", "PALS_RANKID"},
                                                          {"JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"},
                                                          {"FLUX_JOB_SIZE", "FLUX_TASK_RANK"},
                                                          {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}}};

int number_of(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

/// An interactive shell under srun is a step of one task: nothing there was launched as a rank.
bool is_single_slurm_task(const Launcher& launcher) {
  return launcher.variable == "SLURM_STEP_NUM_TASKS" && launcher.ranks == 1;
}

[[noreturn]] void throw_separate_jobs(const Launcher& launcher) {
  if (launcher.rank != 0) throw ReportedByRankZero(ExitCode::unavailable);
  const std::string library = MpiEnvironment::library_version();
  throw Error(
      fmt::format("the launcher started {} ranks ({}) but MPI sees 1: it and this program's MPI library ({}) do "
                  "not fit together; start with that library's own mpirun, or under Slurm with: srun "
                  "--mpi=pmix -n {} syncbn ...",
                  launcher.ranks, launcher.variable, library.substr(0, library.find(',')), launcher.ranks),
      ExitCode::unavailable);
}

std::unique_ptr<MpiEnvironment> start_mpi(const Launcher& launcher) {
  if (launcher.variable.empty()) return nullptr;
  auto mpi = std::make_unique<MpiEnvironment>();
  if (mpi->ranks() == 1 && launcher.ranks > 1) throw_separate_jobs(launcher);
  return mpi;
}

World make(const std::unique_ptr<MpiEnvironment>& mpi, const WorldOptions& options) {
  return mpi ? World::mpi(options, mpi->fortran_comm()) : World::threads(options);
}

WorldOptions one_worker_per_rank(const std::unique_ptr<MpiEnvironment>& mpi) {
  WorldOptions options;
  options.workers = mpi ? mpi->ranks() : 1;
  options.threads = 1;
  return options;
}

}  // namespace

Launcher detect_launcher() {
  for (const LauncherVariables& names : kLaunchers) {
    if (std::getenv(names.ranks) == nullptr) continue;
    const Launcher launcher{names.ranks, std::max(1, number_of(names.ranks, 1)), number_of(names.rank, 0)};
    return is_single_slurm_task(launcher) ? Launcher{} : launcher;
  }
  if (std::getenv("PMIX_RANK") != nullptr) return {"PMIX_RANK", 1, number_of("PMIX_RANK", 0)};
  return {};
}

Job::Job() : launcher_(detect_launcher()), mpi_(start_mpi(launcher_)), plain_(make(mpi_, one_worker_per_rank(mpi_))) {}

std::string Job::on_rank_zero(const std::function<std::string()>& what) const {
  if (ranks() == 1) return what();
  // One byte says whether it worked: '+' and the text, or the exit code. The message is out before any other rank can
  // leave, because mpirun ends all ranks when the first one does.
  if (first()) {
    ExitCode code = ExitCode::failure;
    try {
      const std::string text = what();
      plain_.broadcast("+" + text);
      return text;
    } catch (const Error& e) {
      code = e.code();
      spdlog::error(e.what());
    } catch (const std::exception& e) {
      spdlog::error(message_of(e));
    }
    plain_.broadcast(std::string(1, static_cast<char>(code)));
    throw ReportedByRankZero(code);
  }
  const std::string answer = plain_.broadcast("");
  if (!answer.starts_with('+')) throw ReportedByRankZero(static_cast<ExitCode>(answer.at(0)));
  return answer.substr(1);
}

void Job::require_same(const char* what, const std::string& value, const char* remedy) const {
  std::string differ;  // the same on all ranks
  try {
    plain_.require_same(what, value);
  } catch (const Error& e) {
    differ = e.what();
  }
  on_rank_zero([&] { return differ.empty() ? differ : throw Error(differ + remedy, ExitCode::usage); });
}

void Job::require_alike(const std::vector<std::string>& command) const {
  require_same("build", build_id());
  require_same("command line", fmt::format("{}", fmt::join(command.begin() + 1, command.end(), "\n")));
}

void Job::require_same_instructions() const {
  require_same("instruction set", describe_compute(),
               "; of oneDNN's, all have those that ONEDNN_MAX_CPU_ISA=AVX2 in the environment of all ranks allows");
}

Config Job::load(const std::function<Config()>& read) const {
  Config config;
  const std::string text = on_rank_zero([&] { return to_yaml(config = read()); });
  if (!first()) config = parse_config(text, "configuration of rank 0", {});  // rank 0's knows its lines
  if (config.workers == 0) config.workers = std::max(cores_offered(), ranks());
  on_rank_zero([&] {
    check_config(config);
    // So that one rank says what is wrong with a model. Pictures take long to list; the trainer finds out later.
    if (config.data.kind != "image-folder") explain(config, 1);
    if (config.workers < ranks()) {
      throw Error(fmt::format("workers = {} but {} ranks were started, and every rank hosts at least one worker; start "
                              "{} ranks or fewer, or set workers={}",
                              config.workers, ranks(), config.workers, ranks()),
                  ExitCode::usage);
    }
    return std::string();
  });
  return config;
}

int Job::cores_offered() const {
  // Ranks of a machine may share cores: a table (machine, core) in which every rank marks its own.
  const std::vector<int> own = allowed_cores();
  const int mine = own.empty() ? 0 : *std::max_element(own.begin(), own.end()) + 1;
  const auto width = static_cast<std::size_t>(plain_.max_over_ranks(mine));
  const auto node = static_cast<std::size_t>(plain_.nodes()[rank()]);
  std::vector<std::int64_t> table(static_cast<std::size_t>(ranks()) * width, 0);
  for (const int core : own) table[node * width + static_cast<std::size_t>(core)] = 1;
  plain_.run([&](Worker& worker) { worker.all().all_reduce(table, Reduce::max, {"cores offered", 0}); });
  return static_cast<int>(std::count(table.begin(), table.end(), 1));
}

World Job::make_world(const WorldOptions& options) const {
  return make(mpi_, options);
}

std::unique_ptr<Teams> Job::make_teams() const {
  return mpi_ ? std::make_unique<Teams>(mpi_->fortran_comm()) : std::make_unique<Teams>();
}

void run_guarded(const World& world, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& e) {
    record_failure(message_of(e));
    if (world.ranks() == 1) throw;
    const auto* error = dynamic_cast<const Error*>(&e);
    world.abort(message_of(e), error == nullptr ? ExitCode::failure : error->code());
  }
}

}  // namespace syncbn::cli
