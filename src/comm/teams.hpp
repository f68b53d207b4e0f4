#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "syncbn/comm/world.hpp"

namespace syncbn {

/// The ranks of a job that work on several things at once: they write each other letters, and any of them can form a
/// world of their own. Nothing here is collective over all ranks. Safe to use from several threads.
class Teams {
 public:
  struct Letter {
    int from = 0;
    std::string text;
  };

  /// This process alone; MPI is not touched.
  Teams();
  /// The ranks of an MPI communicator, given by its Fortran handle, which is duplicated. Collective over its ranks;
  /// needs MPI_THREAD_MULTIPLE.
  explicit Teams(int fortran_comm);
  ~Teams();
  Teams(const Teams&) = delete;
  Teams& operator=(const Teams&) = delete;

  int ranks() const;
  int rank() const;

  /// Returns at once. Letters between two ranks arrive in the order in which they were sent.
  void send(int to, const std::string& text);
  /// A letter to this rank, if there is one.
  std::optional<Letter> receive();
  /// Waits until what was sent has been taken by MPI. Called before the end of a rank.
  void flush();

  /// A world on these ranks alone (ascending). Collective over them; `tag` must differ from that of any other world
  /// that is being formed on one of them. One rank gets a world of threads.
  World make_world(const WorldOptions& options, const std::vector<int>& members, int tag) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
