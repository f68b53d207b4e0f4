#include <fmt/format.h>

#include <exception>
#include <filesystem>
#include <thread>

#include "data/catalog/folders.hpp"
#include "data/catalog/image_files.hpp"
#include "data/dataset.hpp"
#include "data/sources/image_folder.hpp"
#include "data/sources/record_images.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace fs = std::filesystem;

namespace {

Dataset open_idx(const DatasetFacts& facts, const std::vector<fs::path>& files) {
  const int classes = facts.label_classes.back();
  const std::string remedy = remedy_for(facts);
  auto images = read_idx_images(files[0], remedy);
  auto labels = read_idx_labels(files[1], classes, remedy);
  if (images.count != static_cast<std::int64_t>(labels.size()))
    throw Error(fmt::format("{} holds {} images but {} holds {} labels; {}", files[0].string(), images.count,
                            files[1].string(), labels.size(), remedy),
                ExitCode::bad_data);
  const RecordFormat format{1, images.height, images.width, 0, images.height * images.width};
  return Dataset(facts.kind, 1, images.height, images.width, classes, {labels.begin(), labels.end()},
                 std::make_shared<RecordImages>(format, std::vector{images.pixels}));
}

Dataset open_cifar(const DatasetFacts& facts, const std::vector<fs::path>& files, const CifarFormat& format) {
  std::vector<CifarFile> read(files.size());
  std::vector<std::exception_ptr> errors(files.size());
  {
    std::vector<std::jthread> readers;  // unpacking takes most of the time
    for (std::size_t f = 0; f < files.size(); ++f)
      readers.emplace_back([&, f] {
        try {
          read[f] = read_cifar(files[f], format, remedy_for(facts));
        } catch (...) {
          errors[f] = std::current_exception();
        }
      });
  }
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
  std::vector<SharedBytes> records;
  std::vector<std::uint16_t> labels;
  for (CifarFile& file : read) {
    records.push_back(std::move(file.records));
    labels.insert(labels.end(), file.labels.begin(), file.labels.end());
  }
  const RecordFormat record{3, 32, 32, std::ssize(format.label_classes), format.record_bytes()};
  return Dataset(facts.kind, 3, 32, 32, format.label_classes.back(), std::move(labels),
                 std::make_shared<RecordImages>(record, std::move(records)));
}

}  // namespace

Dataset open_dataset(const std::string& kind, const std::string& path, Split split, std::uint64_t seed,
                     const std::vector<std::string>& classes) {
  const DatasetFacts& facts = facts_of(kind);
  if (kind == "builtin")
    return make_builtin_dataset(split, seed, split == Split::train ? facts.train_images : facts.test_images);
  if (kind == "image-folder") return open_image_folder(path, split, classes);
  const auto files = locate_files(facts, path, facts.files_of(split));
  if (facts.format == DatasetFacts::Format::cifar) return open_cifar(facts, files, cifar_format(facts, split));
  return open_idx(facts, files);
}

}  // namespace syncbn
