#pragma once

#include <exception>
#include <string_view>

namespace syncbn {

/// One write where the system takes it whole, so that lines of several processes do not mix. Never fails: a standard
/// error that is closed or full is no reason to stop.
void write_stderr(std::string_view text) noexcept;

/// e.what(), or what can be done about a lack of memory or threads.
const char* message_of(const std::exception& e) noexcept;

}  // namespace syncbn
