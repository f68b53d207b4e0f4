#pragma once

#include <mpi.h>

#include <string>
#include <utility>
#include <vector>

#include "syncbn/core/error.hpp"

namespace syncbn::detail {

/// Turns an MPI error code into Error with MPI's own text.
inline void check_mpi(int code, const char* operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw Error("rank " + std::to_string(rank) + ": " + operation + " failed: " + std::string(text, length),
              ExitCode::unavailable);
}

inline bool mpi_is_usable() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized && !finalized;
}

/// Owner of an MPI communicator.
class OwnedComm {
 public:
  OwnedComm() = default;
  explicit OwnedComm(MPI_Comm comm) : comm_(comm) {
    if (comm_ != MPI_COMM_NULL) MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  }
  OwnedComm(OwnedComm&& other) noexcept : comm_(std::exchange(other.comm_, MPI_COMM_NULL)) {}
  OwnedComm& operator=(OwnedComm&& other) noexcept {
    std::swap(comm_, other.comm_);
    return *this;
  }
  ~OwnedComm() {
    if (comm_ != MPI_COMM_NULL && mpi_is_usable()) MPI_Comm_free(&comm_);
  }

  MPI_Comm get() const { return comm_; }
  explicit operator bool() const { return comm_ != MPI_COMM_NULL; }
  /// Gives up ownership without freeing: a communicator whose messages will never complete cannot be freed.
  void abandon() { comm_ = MPI_COMM_NULL; }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
};

inline OwnedComm duplicate_of(MPI_Comm comm) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(comm, &copy), "MPI_Comm_dup");
  return OwnedComm(copy);
}

/// Whether `here` is true on all ranks.
inline bool everywhere(MPI_Comm comm, bool here) {
  int all = here;
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, comm), "MPI_Allreduce");
  return all != 0;
}

/// Makes a communicator of some ranks of `comm`, which all call this with the same tag.
inline OwnedComm make_comm(MPI_Comm comm, const std::vector<int>& ranks, int tag) {
  MPI_Group everybody = MPI_GROUP_NULL, some = MPI_GROUP_NULL;
  MPI_Comm created = MPI_COMM_NULL;
  check_mpi(MPI_Comm_group(comm, &everybody), "MPI_Comm_group");
  check_mpi(MPI_Group_incl(everybody, static_cast<int>(ranks.size()), ranks.data(), &some), "MPI_Group_incl");
  const int outcome = MPI_Comm_create_group(comm, some, tag, &created);
  MPI_Group_free(&some);
  MPI_Group_free(&everybody);
  check_mpi(outcome, "MPI_Comm_create_group");
  return OwnedComm(created);
}

}  // namespace syncbn::detail
