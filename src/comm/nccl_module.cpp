#include "comm/nccl_module.hpp"

#include "core/module.hpp"

namespace syncbn::detail {

NcclModule open_nccl_module() {
  const Module module = open_module(
      {"libsyncbn_nccl.so", "SYNCBN_NCCL_MODULE", "syncbn_nccl_version", "NCCL", "NCCL", "", "; install libnccl2"});
  if (!module.problem.empty()) return {.problem = module.problem};
  return {module.find<decltype(syncbn_nccl_make_id)>("syncbn_nccl_make_id"),
          module.find<decltype(syncbn_nccl_connect)>("syncbn_nccl_connect"), ""};
}

}  // namespace syncbn::detail
