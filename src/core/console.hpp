#pragma once

#include <string_view>

namespace syncbn {

/// One write where the system takes it whole, so that lines of several processes do not mix. Never fails: a standard
/// error that is closed or full is no reason to stop.
void write_stderr(std::string_view text) noexcept;

}  // namespace syncbn
