#pragma once

#include <chrono>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "study/plan/plan.hpp"
#include "study/results.hpp"
#include "study/running/live_table.hpp"
#include "study/running/placement.hpp"
#include "study/running/rank_watch.hpp"
#include "study/running/trainings.hpp"

namespace syncbn {

/// Rank 0's part of a study: knows what is needed, hands it out, keeps what comes back.
class Coordinator {
 public:
  /// Resolves the study and opens its folder. Throws Error(usage) before anything is trained.
  Coordinator(const StudyRequest& request, Teams& teams);

  /// Starts what there is room for.
  void assign();
  /// What a rank writes about itself and its trainings.
  void take(const Note& note, int from);
  /// Says which ranks with trials have been silent for too long. Nothing is done about it: they may go on.
  void watch();
  /// How long a rank may be silent: as long as the trials wait for their workers.
  double patience_s() const;
  void show();
  bool finished() const { return running_.empty() && (stopping_ || waiting_.empty()); }
  /// Lets running trials save and stop; nothing more is started.
  void stop();
  /// Plan, tables and report, with what has ended so far.
  void write() const;
  StudyResult result() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Running {
    Trial trial;
    std::string folder;
    Placement placement;
    std::map<int, Note> ended;  // by rank
    LiveState::Trial state;
    Clock::time_point start = Clock::now();
  };

  void announce_left_out(std::set<std::string> earlier);
  /// What is planned now, and what of it waits to be started.
  void replan();
  /// Trials like this one for which the memory is enough.
  int at_once(const Point& point) const;
  /// Whether there is memory for it beside what runs.
  bool fits(const Trial& trial) const;
  void start(const Trial& trial, const Placement& placement);
  void end(const Running& job);
  Outcome outcome_of(const Running& job) const;
  Tally tally() const;
  Results results() const;
  TrialRow row_of(const Trial& trial, const std::string& folder) const;
  const Point& point_of(const Trial& trial) const { return points_[trial.point]; }
  std::string name_of_trial(const Trial& trial) const;
  double seconds_left() const;

  const StudyRequest& request_;
  Teams& teams_;
  const std::vector<Point> points_;
  Planner planner_;
  StudyDirectory directory_;
  Cores cores_;
  int jobs_;
  RankWatch watch_;

  std::vector<Trial> planned_;                  // in the order of the tables
  std::vector<Trial> waiting_;                  // longest first
  std::map<int, Running> running_;              // by job
  std::map<std::string, std::string> folders_;  // by hash
  std::map<std::string, Outcome> outcomes_;     // by hash
  int next_job_ = 1;
  bool stopping_ = false;
  LiveTable table_;
  const Clock::time_point start_ = Clock::now();
  mutable Clock::time_point written_{};
  double spent_ = 0, estimated_ = 0;  // core seconds of the trials that have ended, really and as estimated
};

}  // namespace syncbn
