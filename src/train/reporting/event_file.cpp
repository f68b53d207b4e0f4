#include "train/reporting/event_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "core/host_name.hpp"
#include "core/text.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn {
namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";

double now_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// A time later than all files of earlier starts and their events, which may stem from a clock that was ahead.
double earliest_s(const std::string& directory) {
  double earliest = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    std::int64_t begun = 0;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), begun);
    struct stat file {};
    ::stat(entry.path().c_str(), &file);
    earliest = std::max({earliest, static_cast<double>(begun + 1), static_cast<double>(file.st_mtime + 1)});
  }
  return earliest;
}

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0x82F63B78u : 0u);
    table[i] = c;
  }
  return table;
}

/// A protocol buffer message under construction; only the wire types that events need. The field numbers below are
/// those of TensorFlow's event.proto and summary.proto, and of TensorBoard's plugins/hparams/api.proto.
class Message {
 public:
  Message& integer(int field, std::uint64_t value) {
    varint(static_cast<std::uint64_t>(field) << 3);
    varint(value);
    return *this;
  }
  Message& number(int field, double value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 1);
    bytes_ += little_endian(value);
    return *this;
  }
  Message& single(int field, float value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 5);
    bytes_ += little_endian(value);
    return *this;
  }
  Message& text(int field, const std::string& value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& message(int field, const Message& value) { return text(field, value.bytes_); }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

Message event(double at_s, std::int64_t step) {
  Message m;
  m.number(1, at_s);
  if (step != 0) m.integer(2, static_cast<std::uint64_t>(step));
  return m;
}

/// google.protobuf.Value
Message dynamic_value(const std::string& text) {
  const std::optional<double> number = parse_whole<double>(text);
  return number ? Message().number(2, *number) : Message().text(3, text);
}

}  // namespace

std::uint32_t crc32c(const std::string& bytes) {
  static const std::array<std::uint32_t, 256> table = make_crc_table();
  std::uint32_t c = ~0u;
  for (const char byte : bytes) c = table[(c ^ static_cast<unsigned char>(byte)) & 0xFF] ^ (c >> 8);
  return ~c;
}

EventFile::EventFile(const std::string& directory, std::int64_t first_step)
    : ahead_s_(std::max(0.0, earliest_s(directory) - now_s())),
      path_(fmt::format("{}/{}{:010}.{}.{}.{}", directory, kPrefix, static_cast<std::int64_t>(time_s()), host_name(),
                        ::getpid(), first_step)) {
  write(event(time_s(), 0).text(3, "brain.Event:2").bytes());
  if (first_step == 0) return;
  constexpr int kSessionStart = 1;
  write(event(time_s(), first_step).message(7, Message().integer(1, kSessionStart)).bytes());
}

double EventFile::time_s() const {
  return now_s() + ahead_s_;
}

void EventFile::hyperparameters(const std::vector<std::pair<std::string, std::string>>& values) {
  Message start_info;
  for (const auto& [name, value] : values) {
    start_info.message(1, Message().text(1, name).message(2, dynamic_value(value)));
  }
  start_info.number(5, time_s());
  const Message plugin = Message().text(1, "hparams").text(2, Message().message(3, start_info).bytes());
  const Message value = Message().text(1, "_hparams_/session_start_info").message(9, Message().message(1, plugin));
  write(event(time_s(), 0).message(5, Message().message(1, value)).bytes());
}

void EventFile::scalars(std::int64_t step, const Scalars& values) {
  Message summary;
  for (const auto& [name, value] : values) {
    summary.message(1, Message().text(1, name).single(2, static_cast<float>(value)));
  }
  write(event(time_s(), step).message(5, summary).bytes());
}

void EventFile::write(const std::string& data) {
  const auto masked = [](const std::string& bytes) {
    const std::uint32_t crc = crc32c(bytes);
    return little_endian<std::uint32_t>(((crc >> 15) | (crc << 17)) + 0xA282EAD8u);
  };
  const std::string length = little_endian<std::uint64_t>(data.size());
  append_to_file(path_, length + masked(length) + data + masked(data));
}

}  // namespace syncbn
