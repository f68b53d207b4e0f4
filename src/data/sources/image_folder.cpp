#include "data/sources/image_folder.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "core/text.hpp"
#include "data/files/byte_source.hpp"
#include "data/sources/image_codecs.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace fs = std::filesystem;

namespace {

constexpr const char* kExpected = "expected train/CLASS/*.jpg and val/CLASS/*.jpg (or test/; .jpeg, .png)";

[[noreturn]] void refuse(const std::string& what) {
  throw Error("image folder " + what, ExitCode::bad_data);
}

std::string lower_extension(const fs::path& file) {
  std::string extension = file.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return extension;
}

bool is_picture(const std::string& extension) {
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png";
}

/// The other ones that torchvision's ImageFolder reads, and GIF.
bool is_other_picture(const std::string& extension) {
  static const std::set<std::string> kOthers = {".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"};
  return kOthers.contains(extension);
}

/// Pictures of formats that cannot be read.
struct LeftOut {
  std::int64_t count = 0;
  std::string first;  // by name
  void add(const std::string& file) {
    if (++count == 1 || file < first) first = file;
  }
  std::string note(const fs::path& root) const {
    if (count == 0) return "";
    return fmt::format("{}: left out, being neither JPEG nor PNG: {} (the first: {})", root.string(),
                       counted(count, "picture"), first);
  }
};

/// Names of the folders in a folder, sorted.
std::vector<std::string> class_names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && !name.starts_with(".")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Names of the pictures in a class's folder and below, relative to `root`, sorted.
std::vector<std::string> pictures(const fs::path& root, const std::string& name, LeftOut& left_out) {
  std::vector<std::string> files;
  std::vector<fs::path> above = {fs::canonical(root)};  // the folders that contain the current one
  const auto enter = [&above](const fs::path& folder) {
    const fs::path real = fs::canonical(folder);
    if (std::find(above.begin(), above.end(), real) != above.end())
      refuse(fmt::format("{}: lies in itself by way of a symbolic link; remove the link", folder.string()));
    above.push_back(real);
  };
  enter(root / name);
  const auto follow = fs::directory_options::follow_directory_symlink;
  for (auto it = fs::recursive_directory_iterator(root / name, follow); it != fs::end(it); ++it) {
    const std::string file = it->path().filename().string();
    if (file.starts_with(".")) {
      it.disable_recursion_pending();
      continue;
    }
    if (it->is_directory()) {
      above.resize(static_cast<std::size_t>(it.depth()) + 2);
      enter(it->path());
      continue;
    }
    const std::string extension = lower_extension(it->path()), relative = it->path().lexically_relative(root).string();
    if (is_picture(extension)) files.push_back(relative);
    if (is_other_picture(extension)) left_out.add(relative);
  }
  if (files.empty()) refuse(fmt::format("{}: no .jpg, .jpeg or .png in it", (root / name).string()));
  std::sort(files.begin(), files.end());
  return files;
}

class PictureFiles : public ImageSource {
 public:
  PictureFiles(fs::path root, std::vector<std::string> files) : root_(std::move(root)), files_(std::move(files)) {}

  /// Below data.path: val/CLASS/FILE.
  std::string file(std::int64_t i) const override { return (root_.filename() / files_[i]).string(); }

  Image image(std::int64_t i) const override {
    const fs::path file = root_ / files_[i];
    std::error_code error;
    const std::uintmax_t size = fs::file_size(file, error);
    if (error) refuse(fmt::format("{}: {}", file.string(), error.message()));
    std::vector<std::uint8_t> bytes(size);
    ByteSource::open_packed(file, "mend or remove it")->read_exactly(bytes, size);
    return decode_image(bytes, file);
  }

  std::uint64_t hash(std::int64_t n, std::uint64_t seed) const override {
    for (std::int64_t i = 0; i < n; ++i) {
      const std::string& name = files_[i];
      seed = XXH3_64bits_withSeed(name.data(), name.size() + 1, seed);  // including the terminating 0
    }
    return seed;
  }

 private:
  fs::path root_;
  std::vector<std::string> files_;
};

fs::path folder_of(const std::string& path, Split split) {
  const fs::path root(path);
  std::error_code ignored;
  if (!fs::is_directory(root, ignored)) refuse(fmt::format("{}: no such folder; set data.path", path));
  if (split == Split::train) {
    if (!fs::is_directory(root / "train", ignored)) refuse(fmt::format("{}: has no folder train; {}", path, kExpected));
    return root / "train";
  }
  for (const char* name : {"val", "test"}) {
    if (fs::is_directory(root / name, ignored)) return root / name;
  }
  refuse(fmt::format("{}: has neither a folder val nor test; {}", path, kExpected));
}

/// Those of train, or of the folder itself where there is no train.
std::vector<std::string> classes_of(const fs::path& root) {
  const fs::path train = root.parent_path() / "train";
  std::error_code ignored;
  std::vector<std::string> names = class_names(fs::is_directory(train, ignored) ? train : root);
  if (names.empty())
    refuse(fmt::format("{}: no folder of a class in train; {}", root.parent_path().string(), kExpected));
  return names;
}

/// Of each of the folders `names` in `root`. A class that training does not know can be no label. `given`: whether the
/// classes are those of weights.
std::vector<std::uint16_t> labels_of(const std::vector<std::string>& names, const std::vector<std::string>& classes,
                                     const fs::path& root, bool given) {
  constexpr std::size_t kShown = 5;
  std::map<std::string, std::uint16_t> label_of;
  for (std::size_t c = 0; c < classes.size(); ++c) label_of[classes[c]] = static_cast<std::uint16_t>(c);
  std::vector<std::uint16_t> labels;
  for (const std::string& name : names) {
    const auto found = label_of.find(name);
    if (found == label_of.end()) {
      const std::string folder = (root / name).string();
      if (!given) refuse(folder + ": train has no class of this name");
      const std::vector<std::string> shown(classes.begin(), classes.begin() + std::min(kShown, classes.size()));
      refuse(fmt::format("{}: the weights know no class of this name, but {}{}; name the folders as in training",
                         folder, fmt::join(shown, ", "), classes.size() > kShown ? ", ..." : ""));
    }
    labels.push_back(found->second);
  }
  return labels;
}

Dataset list(const std::string& path, Split split, const std::vector<std::string>& given) {
  const fs::path root = folder_of(path, split);
  const std::vector<std::string> classes = given.empty() ? classes_of(root) : given, names = class_names(root);
  if (names.empty()) refuse(fmt::format("{}: no folder of a class; {}", root.string(), kExpected));
  if (classes.size() > std::numeric_limits<std::uint16_t>::max())
    refuse(fmt::format("{}: {} classes; at most 65,535 can be told apart", path, classes.size()));
  const std::vector<std::uint16_t> label_of = labels_of(names, classes, root, !given.empty());

  LeftOut left_out;
  std::vector<std::vector<std::string>> of_class;
  std::size_t most = 0;
  for (const std::string& name : names) {
    of_class.push_back(pictures(root, name, left_out));
    most = std::max(most, of_class.back().size());
  }
  std::vector<std::string> files;
  std::vector<std::uint16_t> labels;
  for (std::size_t turn = 0; turn < most; ++turn) {
    for (std::size_t c = 0; c < names.size(); ++c) {
      if (turn >= of_class[c].size()) continue;
      files.push_back(std::move(of_class[c][turn]));
      labels.push_back(label_of[c]);
    }
  }
  const int count = static_cast<int>(classes.size());
  return Dataset("image-folder", 3, 0, 0, count, std::move(labels),
                 std::make_shared<PictureFiles>(root, std::move(files)), classes, left_out.note(root));
}

}  // namespace

Dataset open_image_folder(const std::string& path, Split split, const std::vector<std::string>& classes) {
  try {
    return list(path, split, classes);
  } catch (const fs::filesystem_error& e) {
    refuse(e.what());
  }
}

}  // namespace syncbn
