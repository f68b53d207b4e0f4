#pragma once

#include <string>

#include "comm/devices/nccl/module.hpp"

namespace syncbn::detail {

/// NCCL, in a library of its own that is opened where it is there, beside libsyncbn ($SYNCBN_NCCL_MODULE names another
/// file), so that one program serves machines with and without it.
struct NcclModule {
  decltype(&syncbn_nccl_make_id) make_id = nullptr;
  decltype(&syncbn_nccl_connect) connect = nullptr;
  std::string problem;  ///< why there is none
};

/// It stays open until the process ends.
NcclModule open_nccl_module();

}  // namespace syncbn::detail
