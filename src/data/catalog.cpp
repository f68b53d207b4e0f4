#include "data/catalog.hpp"

#include <cstdlib>

#include "data/folders.hpp"

namespace syncbn {
namespace {

constexpr const char* kMnist = "https://ossci-datasets.s3.amazonaws.com/mnist/";
constexpr const char* kFashion = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/";
constexpr const char* kCifar = "https://www.cs.toronto.edu/~kriz/";

RemoteFile file(const char* base, const std::string& name, std::uint64_t bytes, const std::string& md5,
                const std::string& content_md5 = "") {
  return {name, base + name, bytes, md5, content_md5};
}

RemoteDataset set(const std::string& kind, const std::string& about, std::vector<RemoteFile> files) {
  return {kind, layout_of(kind).folders.front(), about, std::move(files)};
}

}  // namespace

std::vector<RemoteDataset> catalog(const std::string& mirror) {
  std::vector<RemoteDataset> sets = {
      set("mnist", "handwritten digits, 70,000 of 1x28x28, 12 MB (LeCun, Cortes, Burges; no formal licence)",
          {file(kMnist, "train-images-idx3-ubyte.gz", 9'912'422, "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "6bbc9ace898e44ae57da46a324031adb"),
           file(kMnist, "train-labels-idx1-ubyte.gz", 28'881, "d53e105ee54ea40749a09fcbcd1e9432",
                "a25bea736e30d166cdddb491f175f624"),
           file(kMnist, "t10k-images-idx3-ubyte.gz", 1'648'877, "9fb629c4189551a2d022fa330f9573f3",
                "2646ac647ad5339dbf082846283269ea"),
           file(kMnist, "t10k-labels-idx1-ubyte.gz", 4'542, "ec29112dd5afa0611ce80d1b7f02629c",
                "27ae3e4e09519cfbb04c329615203637")}),
      set("fashion-mnist", "pictures of clothes, 70,000 of 1x28x28, 31 MB (Zalando; MIT)",
          {file(kFashion, "train-images-idx3-ubyte.gz", 26'421'880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
           file(kFashion, "train-labels-idx1-ubyte.gz", 29'515, "25c81989df183df01b3e8a0aad5dffbe",
                "9018921c3c673c538a1fc5bad174d6f9"),
           file(kFashion, "t10k-images-idx3-ubyte.gz", 4'422'102, "bef4ecab320f06d8554ea6380940ec79",
                "8181f5470baa50b63fa0f6fddb340f0a"),
           file(kFashion, "t10k-labels-idx1-ubyte.gz", 5'148, "bb300cfdad3c16e7a12a480ee83cd310",
                "15d484375f8d13e6eb1aabb0c3f46965")}),
      set("cifar10", "photographs of 10 classes, 60,000 of 3x32x32, 170 MB (Krizhevsky; no formal licence)",
          {file(kCifar, "cifar-10-binary.tar.gz", 170'052'171, "c32a1d4ab5d03f1284b67883e8d87530")}),
      set("cifar100", "photographs of 100 classes, 60,000 of 3x32x32, 169 MB (Krizhevsky; no formal licence)",
          {file(kCifar, "cifar-100-binary.tar.gz", 168'513'733, "03b5dce01913d631647c71ecec9e9cb8")}),
  };
  if (!mirror.empty())
    for (auto& dataset : sets)
      for (auto& remote : dataset.files) remote.url = mirror + "/" + dataset.folder + "/" + remote.name;
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
  constexpr std::uint64_t kPixels = 3 * 32 * 32;
  std::vector<ArchiveMember> members;
  const auto add = [&](const char* kind, std::uint64_t train_bytes, std::uint64_t test_bytes) {
    for (const auto& train : layout_of(kind).train_files) members.push_back({train, train_bytes});
    for (const auto& test : layout_of(kind).test_files) members.push_back({test, test_bytes});
  };
  if (name == "cifar-10-binary.tar.gz") add("cifar10", 10'000 * (1 + kPixels), 10'000 * (1 + kPixels));
  if (name == "cifar-100-binary.tar.gz") add("cifar100", 50'000 * (2 + kPixels), 10'000 * (2 + kPixels));
  return members;
}

}  // namespace syncbn
