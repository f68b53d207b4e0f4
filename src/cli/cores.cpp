#include "cli/cores.hpp"

#include <hwloc.h>

#include <memory>
#include <thread>

namespace syncbn::cli {
namespace {

struct FreeTopology {
  void operator()(hwloc_topology* t) const { hwloc_topology_destroy(t); }
};
struct FreeBitmap {
  void operator()(hwloc_bitmap_s* b) const { hwloc_bitmap_free(b); }
};

std::vector<int> from_hwloc() {
  hwloc_topology* raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return {};
  const std::unique_ptr<hwloc_topology, FreeTopology> topology(raw);
  if (hwloc_topology_load(topology.get()) != 0) return {};
  const std::unique_ptr<hwloc_bitmap_s, FreeBitmap> bound(hwloc_bitmap_alloc());
  if (hwloc_get_cpubind(topology.get(), bound.get(), HWLOC_CPUBIND_PROCESS) != 0) return {};
  std::vector<int> cores;
  const int count = hwloc_get_nbobjs_by_type(topology.get(), HWLOC_OBJ_CORE);
  for (int i = 0; i < count; ++i) {
    const hwloc_obj_t core = hwloc_get_obj_by_type(topology.get(), HWLOC_OBJ_CORE, static_cast<unsigned>(i));
    if (hwloc_bitmap_intersects(core->cpuset, bound.get())) cores.push_back(i);
  }
  return cores;
}

}  // namespace

std::vector<int> allowed_cores() {
  std::vector<int> cores = from_hwloc();
  if (!cores.empty()) return cores;
  const int count = static_cast<int>(std::thread::hardware_concurrency());  // no topology here: all there are
  for (int i = 0; i < count; ++i) cores.push_back(i);
  return cores;
}

}  // namespace syncbn::cli
