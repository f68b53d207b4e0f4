#include "study/running/available_memory.hpp"

#include <algorithm>
#include <fstream>

namespace syncbn {
namespace {

/// The names of version 2 and version 1.
struct Names {
  const char *folder, *limit, *used, *reclaimable;
};
constexpr Names kUnified = {"/sys/fs/cgroup", "/memory.max", "/memory.current", "inactive_file"};
constexpr Names kController = {"/sys/fs/cgroup/memory", "/memory.limit_in_bytes", "/memory.usage_in_bytes",
                               "total_inactive_file"};

/// The least that one of the groups leaves, of `group` ("/a/b") and those that it lies in. A container may name a group
/// that it does not see.
std::int64_t left_in(const std::string& root, const Names& names, std::string group, std::int64_t bytes) {
  for (;;) {
    const std::string folder = root + names.folder + group;
    std::int64_t limit = 0, used = 0, count = 0;
    if (std::ifstream(folder + names.limit) >> limit && std::ifstream(folder + names.used) >> used) {  // not "max"
      std::ifstream stat(folder + "/memory.stat");
      for (std::string name; stat >> name >> count;) {
        if (name == names.reclaimable) used -= count;  // of files, given back on demand
      }
      bytes = std::min(bytes, std::max<std::int64_t>(limit - used, 1));
    }
    if (group.empty()) return bytes;
    group.resize(std::min(group.rfind('/'), group.size() - 1));
  }
}

}  // namespace

std::int64_t available_memory(const std::string& root) {
  std::int64_t bytes = 0;
  std::ifstream meminfo(root + "/proc/meminfo");
  for (std::string name, rest; meminfo >> name; std::getline(meminfo, rest)) {
    std::int64_t kib = 0;
    if (name == "MemAvailable:" && meminfo >> kib) bytes = kib * 1024;
  }
  if (bytes == 0) return 0;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // NUMBER:CONTROLLERS:GROUP
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") bytes = left_in(root, kUnified, group, bytes);
    if (controllers.find(",memory,") != std::string::npos) bytes = left_in(root, kController, group, bytes);
  }
  return bytes;
}

}  // namespace syncbn
