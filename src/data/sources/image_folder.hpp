#pragma once

#include <string>
#include <vector>

#include "data/dataset.hpp"

namespace syncbn {

/// The pictures under path/train or path/val (or path/test), one folder per class; see open_dataset(). `classes`: in
/// the order of the labels; empty: those of path/train, or of the split where there is no train, ordered by name.
Dataset open_image_folder(const std::string& path, Split split, const std::vector<std::string>& classes);

}  // namespace syncbn
