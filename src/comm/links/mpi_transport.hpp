#pragma once

#include <memory>
#include <utility>

#include "comm/links/transport.hpp"
#include "comm/order/topology.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn::detail {

struct MpiConnection {
  Topology topology;
  std::unique_ptr<Transport> transport;
};

/// Spreads the workers over the ranks of an MPI communicator, which is duplicated. Collective over its ranks; throws
/// on all of them alike, see World::mpi.
MpiConnection connect_mpi(const WorldOptions& options, int fortran_comm);

}  // namespace syncbn::detail
