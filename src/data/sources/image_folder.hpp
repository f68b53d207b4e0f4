#pragma once

#include <string>

#include "data/dataset.hpp"

namespace syncbn {

/// The pictures under path/train or path/val (or path/test), one folder per class; see open_dataset(). The classes are
/// those of path/train, in the order of their names.
Dataset open_image_folder(const std::string& path, Split split);

}  // namespace syncbn
