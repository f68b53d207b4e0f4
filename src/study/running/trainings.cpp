#include "study/running/trainings.hpp"

#include <fmt/format.h>

#include <chrono>
#include <new>
#include <system_error>

#include "syncbn/train/trainer.hpp"
#include "train/compute.hpp"

namespace syncbn {
namespace {

constexpr auto kBetweenProgress = std::chrono::milliseconds(250);

Note ended(const char* how, const std::string& message) {
  return Note{{"how", how}, {"message", message}};
}

/// Trains and says how it went.
Note train_trial(const Note& note, Teams& teams) {
  try {
    TrainRequest request;
    request.config = parse_config(note.at("config").get<std::string>(), "trial", {});
    // Trials run side by side in one process, and one that ends gives back its libraries, which waits for the device:
    // that would break the captures of others.
    request.config.cuda_graphs = false;
    request.run_dir = note.at("folder").get<std::string>();
    request.resume = true;
    request.command = note.at("command").get<std::vector<std::string>>();
    note.at("settings").get_to(request.hyperparameters);
    request.watch = [&teams, job = note.at("job"),
                     last = std::chrono::steady_clock::time_point{}](const ProgressState& state) mutable {
      const auto now = std::chrono::steady_clock::now();
      if (now - last < kBetweenProgress) return;
      last = now;
      try {
        teams.send(0, Note{{"is", "progress"},
                           {"job", job},
                           {"done", state.done},
                           {"total", state.total},
                           {"epoch", state.epoch},
                           {"loss", state.loss},
                           {"accuracy", state.accuracy}}
                          .dump());
      } catch (const std::exception&) {
        // The training does not depend on who looks on.
      }
    };
    World world = teams.make_world(world_options(request.config), note.at("ranks").get<std::vector<int>>(),
                                   note.at("job").get<int>());
    return ended(train(world, request).stopped ? "stopped" : "done", "");
  } catch (const Diverged& e) {
    return ended("diverged", e.what());
  } catch (const Aborted& e) {
    return ended("aborted", e.what());
  } catch (const std::bad_alloc&) {
    return ended("failed", "out of memory; run fewer trials at once (--jobs), or use a smaller batch_per_worker");
  } catch (const std::exception& e) {
    return ended("failed", e.what());
  }
}

}  // namespace

Trainings::~Trainings() {
  for (Job& job : jobs_) {
    if (job.thread.joinable()) job.thread.join();
  }
}

void Trainings::start(const Note& note) {
  Job& job = jobs_.emplace_back();
  const auto report = [this, &job, note](Note end) {
    end["is"] = "ended";
    end["job"] = note.at("job");
    teams_.send(0, end.dump(-1, ' ', false, Note::error_handler_t::replace));
    job.ended = true;
  };
  try {
    job.thread = std::thread([this, note, report] { report(train_trial(note, teams_)); });
  } catch (const std::system_error& e) {  // who waits for its end must learn of it
    report(ended("failed", fmt::format("no thread for it ({}); run fewer trials at once (--jobs)", e.what())));
  }
}

void Trainings::collect() {
  for (auto job = jobs_.begin(); job != jobs_.end();) {
    if (!job->ended) {
      ++job;
      continue;
    }
    if (job->thread.joinable()) job->thread.join();
    job = jobs_.erase(job);
  }
}

}  // namespace syncbn
