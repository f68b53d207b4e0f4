#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

namespace syncbn {

/// How patiently to fetch. Attempts count anew whenever one got further than all before it.
struct FetchPolicy {
  int attempts = 5;
  std::chrono::milliseconds first_pause{500};  ///< doubles from attempt to attempt
  long connect_timeout_s = 20;
  long stall_timeout_s = 30;                         ///< below 1 KB/s for that long counts as a failure
  std::uint64_t max_bytes = std::uint64_t{1} << 30;  ///< of a file of unknown size
};

/// Fetches `url` into `part`, going on behind the bytes that are there already; starts over if the server cannot do
/// that. `bytes`: size of the whole (0 = unknown); more than that is refused. Throws Error(unavailable) on network
/// failure or if somebody else is fetching to the same `part`, Error(bad_data) if there is more than there should be,
/// Error(failure) if `part` cannot be written.
/// As long as the result lives, nobody else fetches to `part`.
std::shared_ptr<const void> fetch(const std::string& url, const std::filesystem::path& part, std::uint64_t bytes,
                                  const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                                  const FetchPolicy& policy = {});

}  // namespace syncbn
