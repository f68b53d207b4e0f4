#include "train/reporting/event_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>

#include "support/temp_dir.hpp"

namespace syncbn {
namespace {

template <class T>
T number_at(const std::string& bytes, std::size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::uint32_t masked(const std::string& bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

/// The records of the one event file in a folder, their framing checked.
std::vector<std::string> records(const std::string& folder) {
  std::string bytes;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) bytes = slurp(entry.path());
  std::vector<std::string> list;
  for (std::size_t at = 0; at < bytes.size();) {
    const auto length = number_at<std::uint64_t>(bytes, at);
    EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 8), masked(bytes.substr(at, 8)));
    list.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 12 + length), masked(list.back()));
    at += 16 + length;
  }
  return list;
}

TEST(EventFile, Crc32cOfTheStandardsExamples) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
}

TEST(EventFile, HoldsTheVersionFirstThenScalars) {
  const TempDir dir;
  EventFile file(dir.path(), 0);
  file.scalars(300, {{"eval/loss", 0.5}});
  const auto all = records(dir.path());
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].substr(9), std::string("\x1a\x0d", 2) + "brain.Event:2");
  // wall_time, step 300, summary { value { tag "eval/loss", simple_value 0.5 } }
  EXPECT_EQ(all[1].substr(9), std::string("\x10\xac\x02\x2a\x12\x0a\x10\x0a\x09", 9) + "eval/loss" +
                                  std::string("\x15\x00\x00\x00\x3f", 5));
}

TEST(EventFile, AResumedRunDropsWhatCameLater) {
  const TempDir dir;
  const EventFile file(dir.path(), 7);
  const auto all = records(dir.path());
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1].substr(9), std::string("\x10\x07\x3a\x02\x08\x01", 6));  // step 7, session_log { status START }
}

TEST(EventFile, ComesBehindThoseOfAClockThatWasAhead) {
  const std::string ahead = "events.out.tfevents.4000000000.host.1.0",
                    behind = "events.out.tfevents.1000000000.host.1.0";
  for (const std::string& earlier : {ahead, behind}) {
    const TempDir dir;
    spit(dir / earlier, "");
    const timespec last{earlier == ahead ? 1000000000 : 4000000000, 0};
    const std::array<timespec, 2> times = {last, last};
    ASSERT_EQ(::utimensat(AT_FDCWD, (dir / earlier).c_str(), times.data(), 0), 0);
    EventFile file(dir.path(), 7);
    file.scalars(8, {{"eval/loss", 0.5}});
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir.path())) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    ASSERT_EQ(names.size(), 2u);
    EXPECT_EQ(names[0], earlier);
    std::filesystem::remove(dir / earlier);
    for (const std::string& event : records(dir.path())) EXPECT_GE(number_at<double>(event, 1), 4000000001.0);
  }
}

}  // namespace
}  // namespace syncbn
