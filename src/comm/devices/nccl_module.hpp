#pragma once

#include <string>

#include "comm/devices/nccl/module.hpp"

namespace syncbn::detail {

/// NCCL, in a separate library beside libsyncbn that is loaded if it exists ($SYNCBN_NCCL_MODULE names another file),
/// so that one program runs on machines with and without it.
struct NcclModule {
  decltype(&syncbn_nccl_make_id) make_id = nullptr;
  decltype(&syncbn_nccl_connect) connect = nullptr;
  std::string problem;  ///< why it is not available
};

/// Opens the library, which stays open until the process ends.
NcclModule open_nccl_module();

}  // namespace syncbn::detail
