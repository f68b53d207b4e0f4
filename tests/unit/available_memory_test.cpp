#include "study/running/available_memory.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "support/temp_dir.hpp"

namespace syncbn {
namespace {

constexpr std::int64_t kMiB = 1 << 20;

class AvailableMemory : public testing::Test {
 protected:
  AvailableMemory() { put("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8192 kB\nBuffers: 1 kB\n"); }
  void put(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ / name).parent_path());
    spit(root_ / name, text);
  }
  void group(const std::string& path, const std::string& limit, std::int64_t used, std::int64_t files) {
    put(path + "/memory.max", limit + "\n");
    put(path + "/memory.current", std::to_string(used) + "\n");
    put(path + "/memory.stat", "anon 1\ninactive_file " + std::to_string(files) + "\n");
  }
  TempDir root_;
};

TEST_F(AvailableMemory, IsTheSystemsWithoutGroups) {
  EXPECT_EQ(available_memory(root_.path()), 8 * kMiB);
  EXPECT_EQ(available_memory(root_ / "nowhere"), 0);
  EXPECT_GT(available_memory(), 0);
}

TEST_F(AvailableMemory, IsTheLeastOfTheGroupsUpToTheRoot) {
  put("proc/self/cgroup", "0::/job/step\n");
  group("sys/fs/cgroup/job/step", "max", kMiB, 0);
  EXPECT_EQ(available_memory(root_.path()), 8 * kMiB);
  group("sys/fs/cgroup/job", std::to_string(6 * kMiB), 3 * kMiB, kMiB);
  EXPECT_EQ(available_memory(root_.path()), 4 * kMiB);
  group("sys/fs/cgroup/job/step", std::to_string(3 * kMiB), 2 * kMiB, kMiB);
  EXPECT_EQ(available_memory(root_.path()), 2 * kMiB);
  group("sys/fs/cgroup", std::to_string(kMiB), 0, 0);  // of a container
  EXPECT_EQ(available_memory(root_.path()), kMiB);
  put("proc/self/cgroup", "0::/../of/the/host\n");
  EXPECT_EQ(available_memory(root_.path()), kMiB);
  group("sys/fs/cgroup", std::to_string(kMiB), 2 * kMiB, 0);
  EXPECT_EQ(available_memory(root_.path()), 1);
}

TEST_F(AvailableMemory, KnowsTheFirstVersionOfGroups) {
  put("proc/self/cgroup", "12:cpu,cpuacct:/a\n7:memory:/docker/c:1\n0::/a\n");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  put("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
  EXPECT_EQ(available_memory(root_.path()), 8 * kMiB);
  put("sys/fs/cgroup/memory/docker/c:1/memory.limit_in_bytes", std::to_string(2 * kMiB));
  put("sys/fs/cgroup/memory/docker/c:1/memory.usage_in_bytes", std::to_string(kMiB));
  EXPECT_EQ(available_memory(root_.path()), kMiB);
}

}  // namespace
}  // namespace syncbn
