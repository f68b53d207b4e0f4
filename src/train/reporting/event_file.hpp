#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace syncbn {

/// A TensorBoard event file of one run: DIR/events.out.tfevents.<time>.<host>.<process>.<step>, framed as TFRecords
/// (length, masked CRC-32C, data, masked CRC-32C). Each start of a run writes a file of its own; one that goes on tells
/// TensorBoard to drop what an earlier start had logged past that step.
class EventFile {
 public:
  using Scalars = std::vector<std::pair<std::string, double>>;

  /// `first_step` > 0: the run goes on from there. Throws Error when the file cannot be written.
  EventFile(const std::string& directory, std::int64_t first_step);
  /// Records the settings of the run for TensorBoard's table of hyperparameters; numbers are written as numbers.
  void hyperparameters(const std::vector<std::pair<std::string, std::string>>& values);
  void scalars(std::int64_t step, const Scalars& values);

 private:
  void write(const std::string& event);
  /// The time of an event; never before those in earlier files, even if the clock has been set back since.
  double time_s() const;

  double ahead_s_;  // how far time_s() is ahead of the clock
  std::string path_;
};

/// CRC-32C (Castagnoli) of the bytes.
std::uint32_t crc32c(const std::string& bytes);

}  // namespace syncbn
