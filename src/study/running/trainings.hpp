#pragma once

#include <atomic>
#include <list>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "comm/teams.hpp"

namespace syncbn {

// What ranks write each other. From rank 0:
//   {"do": "train", "job": n, "ranks": [...], "config": YAML, "folder": path, "command": [...],
//    "settings": [[key, value], ...]}
//   {"do": "stop"}              save and stop all trainings
//   {"do": "watch", "limit_s": t}  to rank 1, again and again: rank 0 is there; to be missed after so many seconds
//   {"do": "quit", "code": n}   nothing more will come; leave with this exit code
// To rank 0:
//   {"is": "here"}              again and again: this rank is there
//   {"is": "progress", "job": n, "done": steps, "total": steps, "epoch": e, "loss": l, "accuracy": a}
//   {"is": "ended", "job": n, "how": "done", "stopped", "diverged", "failed" or "aborted", "message": text}
using Note = nlohmann::json;

/// The trainings of one rank, each in a thread of its own.
class Trainings {
 public:
  explicit Trainings(Teams& teams) : teams_(teams) {}
  ~Trainings();

  /// Starts the training of a "train" note and writes rank 0 how it goes and ends.
  void start(const Note& note);
  /// Joins the threads that have ended.
  void collect();

 private:
  struct Job {
    std::thread thread;
    std::atomic<bool> ended = false;
  };
  Teams& teams_;
  std::list<Job> jobs_;
};

}  // namespace syncbn
