#include "comm/mpi_transport.hpp"

namespace syncbn::detail {

MpiConnection connect_mpi(const WorldOptions&, int) {
  throw Error("this build has no MPI transport", ExitCode::unavailable);
}

}  // namespace syncbn::detail
