#pragma once

#include <memory>
#include <string>

#include "train/durable_file.hpp"

namespace syncbn {

inline constexpr const char* kLockName = ".lock";

/// Creates a folder and its parents where they are missing. Throws Error.
void make_folder(const std::string& path);

/// Holds FOLDER/.lock until the last copy is gone. Throws Error(usage) naming the process that holds it, if another
/// does.
std::shared_ptr<const Descriptor> lock_folder(const std::string& path);

}  // namespace syncbn
