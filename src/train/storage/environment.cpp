#include "train/storage/environment.hpp"

#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <openssl/crypto.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <thread>

#include "core/host_name.hpp"

namespace syncbn {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 7> kPrefixes = {"OMP_", "OMPI_MCA_", "PRTE_MCA_", "GOMP_",
                                                       "KMP_", "ONEDNN_",   "DNNL_"};
constexpr std::array<std::string_view, 14> kNames = {"OMPI_COMM_WORLD_SIZE",
                                                     "OMPI_COMM_WORLD_LOCAL_SIZE",
                                                     "PMI_SIZE",
                                                     "CUDA_VISIBLE_DEVICES",
                                                     "SLURM_JOB_ID",
                                                     "SLURM_JOB_NUM_NODES",
                                                     "SLURM_JOB_NODELIST",
                                                     "SLURM_JOB_PARTITION",
                                                     "SLURM_CLUSTER_NAME",
                                                     "SLURM_NTASKS",
                                                     "SLURM_STEP_NUM_TASKS",
                                                     "SLURM_NTASKS_PER_NODE",
                                                     "SLURM_CPUS_PER_TASK",
                                                     "SLURM_RESTART_COUNT"};

bool recorded(std::string_view name) {
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end() ||
         std::any_of(kPrefixes.begin(), kPrefixes.end(), [name](auto prefix) { return name.starts_with(prefix); });
}

Json variables() {
  std::map<std::string, std::string> sorted;
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos || !recorded(text.substr(0, equals))) continue;
    sorted.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return sorted.empty() ? Json::object() : Json(sorted);
}

/// Arm CPUs have numbers instead of a name.
std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  std::string implementer;
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(colon + 2);
    if (line.starts_with("model name")) return value;
    if (line.starts_with("CPU implementer")) implementer = value;
    if (line.starts_with("CPU part")) return fmt::format("implementer {}, part {}", implementer, value);
  }
  return "unknown";
}

}  // namespace

std::string environment_json() {
  utsname system{};
  ::uname(&system);
  Json json;
  json["host"] = host_name();
  json["system"] = fmt::format("{} {} {}", system.sysname, system.release, system.machine);
  json["processor"] = processor();
  json["cores"] = std::thread::hardware_concurrency();
  json["versions"] = {{"compiler", __VERSION__},
                      {"glibc", ::gnu_get_libc_version()},
                      {"eigen", fmt::format("{}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION)},
                      {"openssl", OpenSSL_version(OPENSSL_VERSION_STRING)}};
  json["variables"] = variables();
  // Environment variables may hold any bytes; what is not UTF-8 is replaced.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace syncbn
