#include <array>

#include "comm/links/mpi_handles.hpp"
#include "comm/links/slow_call.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn {

MpiEnvironment::MpiEnvironment() {
  {
    const detail::SlowCall watch(
        "MPI_Init",
        "a rank has not come so far, or hosts cannot reach each other; look for a host that hangs, a firewall, or "
        "a network that not all hosts share (mpirun --mca btl_tcp_if_include NETWORK)");
    int provided = MPI_THREAD_SINGLE;
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS)
      throw Error("MPI could not be initialized; start the program with mpirun, or check the MPI installation",
                  ExitCode::unavailable);
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  detail::check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &ranks_), "MPI_Comm_size");
  detail::check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
}

MpiEnvironment::~MpiEnvironment() {
  if (!detail::mpi_is_usable()) return;
  const detail::SlowCall watch("MPI_Finalize", "another rank is still at work, stopped or stuck");
  MPI_Finalize();
}

int MpiEnvironment::fortran_comm() const {
  return MPI_Comm_c2f(MPI_COMM_WORLD);
}
int MpiEnvironment::ranks() const {
  return ranks_;
}
int MpiEnvironment::rank() const {
  return rank_;
}

std::string MpiEnvironment::library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  return std::string(text.data(), static_cast<std::size_t>(length));
}

}  // namespace syncbn
