#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "syncbn/comm/world.hpp"

namespace syncbn {

/// The ranks of a job that works on several things at once: ranks send each other letters, and any subset of them can
/// form a world. Nothing here is collective over all ranks. Safe to use from several threads.
class Teams {
 public:
  struct Letter {
    int from = 0;
    std::string text;
  };

  /// A team of this process alone; MPI is not touched.
  Teams();
  /// The ranks of an MPI communicator, given by its Fortran handle, which is duplicated. Collective over its ranks;
  /// needs MPI_THREAD_MULTIPLE.
  explicit Teams(int fortran_comm);
  ~Teams();
  Teams(const Teams&) = delete;
  Teams& operator=(const Teams&) = delete;

  int ranks() const;
  int rank() const;

  /// Sends a letter; returns at once. Letters between two ranks arrive in the order in which they were sent.
  void send(int to, const std::string& text);
  /// Returns the next letter to this rank, if there is one.
  std::optional<Letter> receive();
  /// Waits until MPI no longer needs the memory of the sent letters. Called before a rank ends.
  void flush();

  /// Makes a world of these ranks (ascending). Collective over them; `tag` must differ from that of any other world
  /// that is being formed on one of them. A single rank gets a world of threads.
  World make_world(const WorldOptions& options, const std::vector<int>& members, int tag) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
