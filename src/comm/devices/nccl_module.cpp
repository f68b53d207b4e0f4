#include "comm/devices/nccl_module.hpp"

#include "core/module.hpp"

namespace syncbn::detail {

NcclModule open_nccl_module() {
  const Module module = open_module({.file = "libsyncbn_nccl.so",
                                     .variable = "SYNCBN_NCCL_MODULE",
                                     .version = "syncbn_nccl_version",
                                     .article = "",
                                     .name = "NCCL",
                                     .if_missing = "",
                                     .if_unusable = "; install libnccl2"});
  if (!module.problem.empty()) return {.problem = module.problem};
  return {module.find<decltype(syncbn_nccl_make_id)>("syncbn_nccl_make_id"),
          module.find<decltype(syncbn_nccl_connect)>("syncbn_nccl_connect"), ""};
}

}  // namespace syncbn::detail
