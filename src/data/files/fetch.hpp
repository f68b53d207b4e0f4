#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

namespace syncbn {

/// Retries and limits of fetching. Attempts are counted anew whenever one got further than all before it.
struct FetchPolicy {
  int attempts = 5;
  std::chrono::milliseconds first_pause{500};  ///< doubles with every attempt
  long connect_timeout_s = 20;
  long stall_timeout_s = 30;                         ///< less than 1 KB/s for this long counts as a failure
  std::uint64_t max_bytes = std::uint64_t{1} << 30;  ///< for a file of unknown size
};

/// Fetches `url` into `part`, continuing after the bytes that are already there; starts over if the server cannot do
/// that. `bytes`: total size (0 = unknown); more than that is refused. Throws Error(unavailable) on network failure or
/// if another process or thread is fetching to the same `part`, Error(bad_data) if there are too many bytes,
/// Error(failure) if `part` cannot be written. As long as the result lives, nobody else fetches to `part`.
std::shared_ptr<const void> fetch(const std::string& url, const std::filesystem::path& part, std::uint64_t bytes,
                                  const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                                  const FetchPolicy& policy = {});

}  // namespace syncbn
