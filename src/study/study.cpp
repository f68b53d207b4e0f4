#include "study/study.hpp"

#include <fmt/format.h>

#include <chrono>
#include <limits>
#include <thread>

#include "core/console.hpp"
#include "study/running/coordinator.hpp"
#include "study/running/trainings.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/train/trainer.hpp"

namespace syncbn {
namespace {

constexpr auto kNap = std::chrono::milliseconds(2);

/// True once a second.
class EverySecond {
 public:
  bool due() {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::seconds(1)) return false;
    last_ = now;
    return true;
  }

 private:
  std::chrono::steady_clock::time_point last_{};
};

/// Trains what rank 0 asks for until it says that there is nothing more. Its exit code.
ExitCode follow(const StudyRequest& request, Teams& teams, Trainings& trainings) {
  RankWatch watch(teams.ranks(), request.hosts);
  double patience_s = std::numeric_limits<double>::infinity();
  EverySecond second;
  for (;;) {
    trainings.collect();
    if (second.due()) teams.send(0, Note{{"is", "here"}}.dump());
    const auto letter = teams.receive();
    if (!letter) {
      if (watch.missed(0, patience_s)) write_stderr(fmt::format("syncbn: {}\n", watch.silence(0)));
      std::this_thread::sleep_for(kNap);
      continue;
    }
    if (watch.heard(0)) write_stderr(fmt::format("syncbn: {} is heard from again\n", watch.describe(0)));
    const Note note = Note::parse(letter->text);
    if (note.at("do") == "watch") note.at("limit_s").get_to(patience_s);
    if (note.at("do") == "train") trainings.start(note);
    if (note.at("do") == "stop") request_stop();
    if (note.at("do") == "quit") return static_cast<ExitCode>(note.at("code").get<int>());
  }
}

/// Takes the letters that have arrived; whether there was one.
bool read_mail(Teams& teams, Trainings& trainings, Coordinator& coordinator) {
  bool any = false;
  while (const auto letter = teams.receive()) {
    any = true;
    const Note note = Note::parse(letter->text);
    if (note.contains("is")) {
      coordinator.take(note, letter->from);
    } else if (note.at("do") == "train") {
      trainings.start(note);
    } else if (note.at("do") == "stop") {
      request_stop();
    }
  }
  return any;
}

StudyResult lead(const StudyRequest& request, Teams& teams, Trainings& trainings) {
  Coordinator coordinator(request, teams);
  EverySecond second;
  std::exception_ptr failure;
  while (!coordinator.finished()) {
    try {
      if (stop_requested()) coordinator.stop();
      coordinator.assign();
      if (!read_mail(teams, trainings, coordinator)) std::this_thread::sleep_for(kNap);
      trainings.collect();
      coordinator.show();
      if (!second.due() || teams.ranks() == 1) continue;
      coordinator.watch();
      teams.send(1, Note{{"do", "watch"}, {"limit_s", coordinator.patience_s()}}.dump());
    } catch (...) {
      if (!failure) failure = std::current_exception();
      coordinator.stop();  // what runs may still save its checkpoint
    }
  }
  if (failure) std::rethrow_exception(failure);
  coordinator.write();
  return coordinator.result();
}

void dismiss(Teams& teams, ExitCode code) {
  for (int rank = 1; rank < teams.ranks(); ++rank) {
    teams.send(rank, Note{{"do", "quit"}, {"code", static_cast<int>(code)}}.dump());
  }
  teams.flush();
}

}  // namespace

StudyResult run_study(const StudyRequest& request, Teams& teams) {
  Trainings trainings(teams);
  if (teams.rank() != 0) {
    const ExitCode code = follow(request, teams, trainings);
    if (code != ExitCode::ok && code != ExitCode::stopped) throw Error("reported by rank 0", code);
    StudyResult result;
    result.stopped = code == ExitCode::stopped;
    return result;
  }
  try {
    const StudyResult result = lead(request, teams, trainings);
    dismiss(teams, result.stopped ? ExitCode::stopped : ExitCode::ok);
    return result;
  } catch (const Error& e) {
    dismiss(teams, e.code());
    throw;
  } catch (...) {
    dismiss(teams, ExitCode::failure);
    throw;
  }
}

}  // namespace syncbn
