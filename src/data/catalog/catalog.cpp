#include "data/catalog/catalog.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

constexpr const char* kMnist = "https://ossci-datasets.s3.amazonaws.com/mnist/";
constexpr const char* kFashion = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/";
constexpr const char* kCifar = "https://www.cs.toronto.edu/~kriz/";

RemoteFile file(const char* base, const std::string& name, std::uint64_t bytes, const std::string& md5,
                const std::string& content_md5 = "") {
  return {name, base + name, bytes, md5, content_md5};
}

using Format = DatasetFacts::Format;

DatasetFacts idx_set(const std::string& kind, float mean, float stddev, const std::string& about,
                     const std::vector<RemoteFile>& remote) {
  DatasetFacts set{kind, Format::idx, 1, 28, {10}, 60'000, 10'000, {mean}, {stddev}, {kind}};
  set.train_files = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"};
  set.test_files = {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};
  set.about = about;
  set.remote = remote;
  return set;
}

DatasetFacts cifar_set(const std::string& kind, const std::vector<int>& label_classes, const std::vector<float>& mean,
                       const std::vector<float>& stddev, const std::vector<std::string>& folders,
                       const std::vector<std::string>& train_files, const std::string& test_file,
                       const std::string& about, const RemoteFile& archive) {
  DatasetFacts set{kind, Format::cifar, 3, 32, label_classes, 50'000, 10'000, mean, stddev, folders};
  set.train_files = train_files;
  set.test_files = {test_file};
  set.about = about;
  set.remote = {archive};
  return set;
}

}  // namespace

const std::vector<DatasetFacts>& dataset_facts() {
  static const std::vector<DatasetFacts> all = {
      {"builtin", Format::other, 3, 32, {10}, 10'000, 2'000, {0.5f}, {0.25f}},
      idx_set("mnist", 0.1307f, 0.3081f,
              "handwritten digits, 70,000 of 1x28x28, 12 MB (LeCun, Cortes, Burges; no formal licence)",
              {file(kMnist, "train-images-idx3-ubyte.gz", 9'912'422, "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                    "6bbc9ace898e44ae57da46a324031adb"),
               file(kMnist, "train-labels-idx1-ubyte.gz", 28'881, "d53e105ee54ea40749a09fcbcd1e9432",
                    "a25bea736e30d166cdddb491f175f624"),
               file(kMnist, "t10k-images-idx3-ubyte.gz", 1'648'877, "9fb629c4189551a2d022fa330f9573f3",
                    "2646ac647ad5339dbf082846283269ea"),
               file(kMnist, "t10k-labels-idx1-ubyte.gz", 4'542, "ec29112dd5afa0611ce80d1b7f02629c",
                    "27ae3e4e09519cfbb04c329615203637")}),
      idx_set("fashion-mnist", 0.2860f, 0.3530f, "pictures of clothes, 70,000 of 1x28x28, 31 MB (Zalando; MIT)",
              {file(kFashion, "train-images-idx3-ubyte.gz", 26'421'880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
               file(kFashion, "train-labels-idx1-ubyte.gz", 29'515, "25c81989df183df01b3e8a0aad5dffbe",
                    "9018921c3c673c538a1fc5bad174d6f9"),
               file(kFashion, "t10k-images-idx3-ubyte.gz", 4'422'102, "bef4ecab320f06d8554ea6380940ec79",
                    "8181f5470baa50b63fa0f6fddb340f0a"),
               file(kFashion, "t10k-labels-idx1-ubyte.gz", 5'148, "bb300cfdad3c16e7a12a480ee83cd310",
                    "15d484375f8d13e6eb1aabb0c3f46965")}),
      cifar_set("cifar10", {10}, {0.4914f, 0.4822f, 0.4465f}, {0.2470f, 0.2435f, 0.2616f},
                {"cifar-10", "cifar10", "cifar-10-batches-bin"},
                {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
                "test_batch.bin",
                "photographs of 10 classes, 60,000 of 3x32x32, 170 MB (Krizhevsky; no formal licence)",
                file(kCifar, "cifar-10-binary.tar.gz", 170'052'171, "c32a1d4ab5d03f1284b67883e8d87530")),
      cifar_set("cifar100", {20, 100}, {0.5071f, 0.4865f, 0.4409f}, {0.2673f, 0.2564f, 0.2762f},
                {"cifar-100", "cifar100", "cifar-100-binary"}, {"train.bin"}, "test.bin",
                "photographs of 100 classes, 60,000 of 3x32x32, 169 MB (Krizhevsky; no formal licence)",
                file(kCifar, "cifar-100-binary.tar.gz", 168'513'733, "03b5dce01913d631647c71ecec9e9cb8")),
      // ImageNet's mean and standard deviation, which weights trained elsewhere expect.
      {"image-folder", Format::other, 3, 0, {}, 0, 0, {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}},
  };
  return all;
}

std::vector<std::string> dataset_kinds() {
  std::vector<std::string> kinds;
  for (const DatasetFacts& facts : dataset_facts()) kinds.push_back(facts.kind);
  return kinds;
}

const DatasetFacts& facts_of(const std::string& kind) {
  for (const DatasetFacts& facts : dataset_facts())
    if (facts.kind == kind) return facts;
  throw Error(fmt::format("unknown data set '{}'; use one of {}", kind, fmt::join(dataset_kinds(), ", ")),
              ExitCode::usage);
}

CifarFormat cifar_format(const DatasetFacts& facts, Split split) {
  const std::int64_t images = split == Split::train ? facts.train_images : facts.test_images;
  return {images / std::ssize(facts.files_of(split)), facts.label_classes};
}

std::vector<RemoteDataset> catalog(const std::string& mirror) {
  std::vector<RemoteDataset> sets;
  for (const DatasetFacts& facts : dataset_facts()) {
    if (facts.remote.empty()) continue;
    RemoteDataset& set = sets.emplace_back(RemoteDataset{facts.kind, facts.folders.front(), facts.about, facts.remote});
    if (mirror.empty()) continue;
    for (RemoteFile& remote : set.files) remote.url = mirror + "/" + set.folder + "/" + remote.name;
  }
  return sets;
}

const std::vector<RemoteDataset>& remote_datasets() {
  static const std::vector<RemoteDataset> sets = [] {
    const char* mirror = std::getenv("SYNCBN_DATA_MIRROR");
    return catalog(mirror ? mirror : "");
  }();
  return sets;
}

std::vector<ArchiveMember> archive_members(const std::string& name) {
  std::vector<ArchiveMember> members;
  for (const DatasetFacts& facts : dataset_facts()) {
    if (facts.format != DatasetFacts::Format::cifar || facts.remote.front().name != name) continue;
    for (const Split split : {Split::train, Split::test}) {
      const CifarFormat format = cifar_format(facts, split);
      for (const std::string& file : facts.files_of(split)) members.push_back({file, format.file_bytes()});
    }
  }
  return members;
}

}  // namespace syncbn
