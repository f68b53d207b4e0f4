#include "data/catalog/download.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <utility>

#include "data/catalog/catalog.hpp"
#include "data/catalog/unpack.hpp"
#include "data/dataset.hpp"
#include "data/files/fetch.hpp"
#include "unit/data_files.hpp"
#include "unit/data_http_server.hpp"

namespace syncbn::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr const char* kBodyMd5 = "3f8873b0f85fd1d7a39cdfbee8fcbe0d";
Bytes body() {
  Bytes bytes(300'000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 7 + i / 251);
  return bytes;
}

class Download : public ::testing::Test {
 protected:
  Download() { setenv("no_proxy", "127.0.0.1", 1); }
  RemoteFile file(const std::string& name = "file.gz") {
    return {name, server.url() + "/" + name, body().size(), kBodyMd5, ""};
  }
  void get(const RemoteFile& remote) { download(remote, folder.str(), {}); }

  TempFolder folder;
  HttpServer server;
  FetchPolicy hasty{.attempts = 3, .first_pause = 1ms, .connect_timeout_s = 5, .stall_timeout_s = 1};
};

TEST_F(Download, FetchesVerifiesAndReportsProgress) {
  server.serve("/file.gz", {body()});
  std::uint64_t last = 0;
  download(file(), (folder.path() / "new" / "place").string(), [&](std::uint64_t done, std::uint64_t total) {
    EXPECT_GT(done, last);
    EXPECT_EQ(total, body().size());
    last = done;
  });
  EXPECT_EQ(last, body().size());
  EXPECT_EQ(read_file(folder.path() / "new" / "place" / "file.gz"), body());
  EXPECT_FALSE(fs::exists(folder.path() / "new" / "place" / "file.gz.part"));
}

TEST_F(Download, ResumesAPartAndCutConnections) {
  folder.write("file.gz.part", slice(body(), 0, 1000));
  server.serve("/file.gz", {.body = body(), .cuts = {50'000, 0, 100'000}});
  fetch(server.url() + "/file.gz", folder.path() / "file.gz.part", body().size(), {}, hasty);
  EXPECT_EQ(read_file(folder.path() / "file.gz.part"), body());
  EXPECT_THAT(server.starts(), ElementsAre(1000, 51'000, 51'000, 151'000));
}

TEST_F(Download, StartsOverWhenTheServerCannotResume) {
  folder.write("file.gz.part", Bytes(1000, 1));
  server.serve("/file.gz", {.body = body(), .ranges = false});
  get(file());
  EXPECT_EQ(read_file(folder.path() / "file.gz"), body());
}

TEST_F(Download, StartsOverBehindTheEndOfTheFile) {
  for (const std::size_t known_size : {std::size_t{0}, body().size()}) {
    folder.write("file.gz.part", Bytes(400'000, 1));
    server.serve("/file.gz", {body()});
    auto remote = file();
    remote.bytes = known_size;
    get(remote);
    EXPECT_EQ(read_file(folder.path() / "file.gz"), body());
    fs::remove(folder.path() / "file.gz");
  }
}

TEST_F(Download, UsesAWholePartWithoutTheNetwork) {
  folder.write("file.gz.part", body());
  get(file());
  EXPECT_EQ(read_file(folder.path() / "file.gz"), body());
  EXPECT_TRUE(server.starts().empty());
}

TEST_F(Download, DeletesWhatHasTheWrongChecksum) {
  Bytes wrong = body();
  wrong[150'000] ^= 1;
  server.serve("/file.gz", {wrong});
  const auto message = message_of(ExitCode::bad_data, [&] { get(file()); });
  EXPECT_THAT(message, HasSubstr(file().url));
  EXPECT_THAT(message, HasSubstr(kBodyMd5));
  EXPECT_TRUE(fs::is_empty(folder.path()));
  server.serve("/file.gz", {body()});
  get(file());  // the next attempt is not spoilt by the first
}

TEST_F(Download, RefusesMoreThanTheOfficialSize) {
  Bytes longer = body();
  longer.push_back(1);
  server.serve("/file.gz", {longer});
  EXPECT_THAT(message_of(ExitCode::bad_data, [&] { get(file()); }), HasSubstr("300000 bytes"));
  EXPECT_LE(fs::file_size(folder.path() / "file.gz.part"), body().size());
}

TEST_F(Download, GivesUpAtOnceOnAMissingFile) {
  const auto message = message_of(ExitCode::unavailable, [&] { get(file("absent.gz")); });
  EXPECT_THAT(message, HasSubstr("/absent.gz"));
  EXPECT_THAT(message, HasSubstr("404"));
  EXPECT_THAT(message, HasSubstr("SYNCBN_DATA_MIRROR"));
  EXPECT_EQ(server.starts().size(), 1u);
}

TEST_F(Download, TriesAgainAfterAServerError) {
  server.serve("/file.gz", {.body = body(), .errors = 2});
  fetch(server.url() + "/file.gz", folder.path() / "file.gz.part", body().size(), {}, hasty);
  EXPECT_EQ(server.starts().size(), 3u);
  EXPECT_EQ(read_file(folder.path() / "file.gz.part"), body());
}

TEST_F(Download, GivesUpAfterAFewAttemptsWithoutProgress) {
  server.serve("/file.gz", {.body = body(), .errors = 100});
  const auto action = [&] { fetch(server.url() + "/file.gz", folder.path() / "p", body().size(), {}, hasty); };
  message_of(ExitCode::unavailable, action);
  EXPECT_EQ(server.starts().size(), 3u);
  // A server that neither resumes nor finishes makes no progress either.
  server.serve("/file.gz", {.body = body(), .ranges = false, .cuts = std::vector<std::size_t>(100, 5000)});
  message_of(ExitCode::unavailable, action);
  EXPECT_LT(server.starts().size(), 20u);
}

TEST_F(Download, GoesOnAfterAStall) {
  server.serve("/file.gz", {.body = body(), .cuts = {20'000}, .stall_at_cut = true});
  fetch(server.url() + "/file.gz", folder.path() / "p", body().size(), {}, hasty);
  EXPECT_EQ(read_file(folder.path() / "p"), body());
}

// Nobody else touches the part before its owner has done with it.
TEST_F(Download, KeepsOthersAwayUntilItIsReleased) {
  server.serve("/file.gz", {body()});
  const auto once = [&] { return fetch(server.url() + "/file.gz", folder.path() / "p", body().size(), {}, hasty); };
  auto held = once();
  EXPECT_THAT(message_of(ExitCode::unavailable, once), HasSubstr("is being fetched by another process"));
  held.reset();
  EXPECT_NE(once(), nullptr);
}

TEST_F(Download, NamesAnUnreachableServer) {
  const std::string url = server.url() + "/file.gz";
  server.stop();
  const auto message =
      message_of(ExitCode::unavailable, [&] { fetch(url, folder.path() / "p", body().size(), {}, hasty); });
  EXPECT_THAT(message, HasSubstr(url));
}

TEST_F(Download, HandsOnAnErrorOfTheProgressCallback) {
  server.serve("/file.gz", {body()});
  EXPECT_THROW(download(file(), folder.str(), [](auto, auto) { throw std::logic_error("stop"); }), std::logic_error);
}

TEST_F(Download, RefusesTwoAtOnce) {
  server.serve("/file.gz", {body()});
  bool tried = false;
  download(file(), folder.str(), [&](auto, auto) {
    if (std::exchange(tried, true)) return;
    EXPECT_THAT(message_of(ExitCode::unavailable, [&] { get(file()); }), HasSubstr("another process"));
  });
  EXPECT_TRUE(tried);
}

TEST_F(Download, NamesAFolderThatCannotBeMade) {
  const auto blocked = folder.write("file", {1});
  EXPECT_THAT(message_of(ExitCode::failure, [&] { download(file(), (blocked / "sub").string(), {}); }),
              HasSubstr(blocked.string()));
}

TEST(Catalog, HasTheOfficialSetsAndAMirror) {
  for (const auto& set : catalog("")) {
    EXPECT_FALSE(set.files.empty());
    for (const auto& file : set.files) {
      EXPECT_EQ(file.md5.size(), 32u);
      EXPECT_TRUE(file.url.starts_with("http")) << file.url;
      EXPECT_TRUE(file.url.ends_with("/" + file.name)) << file.url;
      EXPECT_EQ(archive_members(file.name).empty(), set.kind.starts_with("cifar") == false) << file.name;
    }
  }
  EXPECT_EQ(catalog("http://mirror").front().files.front().url, "http://mirror/mnist/train-images-idx3-ubyte.gz");
  EXPECT_EQ(catalog("").size(), 4u);
}

TEST(Check, TellsOkMissingAndAltered) {
  const TempFolder folder;
  const RemoteFile file{"train-labels-idx1-ubyte.gz", "", 0, kBodyMd5, ""};
  const RemoteFile by_content{"train-labels-idx1-ubyte.gz", "", 0, "none", kBodyMd5};
  const RemoteDataset mnist{"mnist", "mnist", "", {file}};
  std::string reason;
  EXPECT_EQ(check(mnist, file, folder.str(), &reason), FileState::missing);
  EXPECT_THAT(reason, HasSubstr("train-labels-idx1-ubyte[.gz|.xz]"));

  const auto place = folder.write("train-labels-idx1-ubyte.gz", body());
  EXPECT_EQ(check(mnist, file, folder.str(), &reason), FileState::ok);
  EXPECT_EQ(reason, "");
  EXPECT_EQ(check(mnist, by_content, folder.str(), &reason), FileState::altered) << "no gzip file";

  for (const auto& [name, bytes] : {std::pair{"train-labels-idx1-ubyte", body()},
                                    {"train-labels-idx1-ubyte.gz", gzip(body())},
                                    {"train-labels-idx1-ubyte.xz", xz(body())}}) {
    fs::remove(place);
    const auto other = folder.write(name, bytes);
    EXPECT_EQ(check(mnist, by_content, folder.str(), nullptr), FileState::ok) << name;
    Bytes altered = bytes;
    altered[altered.size() / 2] ^= 4;
    folder.write(name, altered);
    EXPECT_EQ(check(mnist, by_content, folder.str(), &reason), FileState::altered) << name;
    EXPECT_THAT(reason, HasSubstr(other.string()));
    fs::remove(other);
  }
}

/// One member of a tar file.
Bytes tar_member(const std::string& name, const Bytes& content, char type = '0') {
  Bytes bytes(512);
  const auto put = [&](std::size_t at, const std::string& text) {
    std::copy(text.begin(), text.end(), bytes.begin() + at);
  };
  put(0, name);
  put(100, "0000644");
  put(124, fmt::format("{:011o}", content.size()));
  put(136, "00000000000");
  put(148, "        ");
  put(156, {type});
  if (type == '2') put(157, "/etc/passwd");
  put(257, "ustar");
  put(263, "00");
  put(148, fmt::format("{:06o}", std::accumulate(bytes.begin(), bytes.end(), 0)) + std::string(1, '\0'));
  bytes.insert(bytes.end(), content.begin(), content.end());
  bytes.resize((bytes.size() + 511) / 512 * 512);
  return bytes;
}

Bytes tar(const std::vector<Bytes>& members) {
  Bytes bytes;
  for (const auto& member : members) bytes.insert(bytes.end(), member.begin(), member.end());
  bytes.resize(bytes.size() + 1024);
  return bytes;
}

TEST(Unpack, TakesTheExpectedMembersAlone) {
  const TempFolder folder;
  const auto archive = folder.write(
      "a.tar.gz", gzip(tar({tar_member("set/readme.html", Bytes(10)), tar_member("set/one.bin", Bytes(3000, 1)),
                            tar_member("../../two.bin", Bytes(77, 2)), tar_member("/three.bin", Bytes(5, 3))})));
  fs::create_directory(folder.path() / "out");
  unpack(archive, {{"one.bin", 3000}, {"two.bin", 77}}, folder.path() / "out");
  EXPECT_EQ(read_file(folder.path() / "out" / "one.bin"), Bytes(3000, 1));
  EXPECT_EQ(read_file(folder.path() / "out" / "two.bin"), Bytes(77, 2));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path() / "out"), {}), 2);
}

TEST(Unpack, RefusesMissingLongShortAndLinkedMembersAndCutArchives) {
  const TempFolder folder;
  fs::create_directory(folder.path() / "out");
  const auto refused = [&](const Bytes& bytes) {
    const auto archive = folder.write("a.tar.gz", bytes);
    const auto message = message_of(ExitCode::bad_data, [&] {
      unpack(archive, {{"one.bin", 3000}}, folder.path() / "out");
    });
    EXPECT_TRUE(fs::is_empty(folder.path() / "out"));
    return message;
  };
  EXPECT_THAT(refused(gzip(tar({}))), HasSubstr("has no member one.bin"));
  EXPECT_THAT(refused(gzip(tar({tar_member("one.bin", Bytes(3001))}))), HasSubstr("wrong size"));
  EXPECT_THAT(refused(gzip(tar({tar_member("one.bin", Bytes(2999))}))), HasSubstr("wrong size"));
  EXPECT_THAT(refused(gzip(tar({tar_member("one.bin", {}, '2')}))), HasSubstr("no plain file"));
  const Bytes good = gzip(tar({tar_member("set/one.bin", body())}));
  EXPECT_THAT(refused(slice(good, 0, good.size() / 2)), HasSubstr("a.tar.gz"));
  refused(Bytes(2000, 9));
  refused({});
}

TEST_F(Download, UnpacksTheCifarArchivesAndSaysWhatTheyLack) {
  server.serve("/cifar-10-binary.tar.gz", {body()});
  const auto message = message_of(ExitCode::bad_data, [&] { get(file("cifar-10-binary.tar.gz")); });
  EXPECT_THAT(message, HasSubstr("cifar-10-binary.tar.gz"));
}

TEST(Check, LooksAtTheFilesOfAnArchive) {
  const TempFolder folder;
  const auto sets = catalog("");
  const auto& cifar = sets[2];
  ASSERT_EQ(cifar.kind, "cifar10");
  std::string reason;
  EXPECT_EQ(check(cifar, cifar.files[0], folder.str(), &reason), FileState::missing);
  EXPECT_THAT(reason, HasSubstr("data_batch_1.bin"));
  const auto members = archive_members(cifar.files[0].name);
  ASSERT_EQ(members.size(), 6u);
  const auto first = folder.write(members[0].name, Bytes(members[0].bytes));
  for (std::size_t m = 1; m < members.size(); ++m) fs::create_hard_link(first, folder.path() / members[m].name);
  EXPECT_EQ(check(cifar, cifar.files[0], folder.str(), &reason), FileState::ok) << reason;
  fs::resize_file(first, 3073);
  EXPECT_EQ(check(cifar, cifar.files[0], folder.str(), &reason), FileState::altered);
  EXPECT_THAT(reason, HasSubstr("data_batch_1.bin is cut short"));
}

}  // namespace
}  // namespace syncbn::test
