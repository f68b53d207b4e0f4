#pragma once

#include <exception>
#include <string_view>

namespace syncbn {

/// Writes text to standard error, in one write if the system accepts it whole, so that lines of several processes do
/// not mix. Never fails: a closed or full standard error is no reason to stop.
void write_stderr(std::string_view text) noexcept;

/// Returns e.what(), or what can be done about a lack of memory or threads.
const char* message_of(const std::exception& e) noexcept;

}  // namespace syncbn
