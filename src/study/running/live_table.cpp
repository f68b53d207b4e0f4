#include "study/running/live_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/console.hpp"
#include "core/text.hpp"
#include "train/reporting/progress_line.hpp"
#include "train/reporting/terminal.hpp"

namespace syncbn {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(200);
constexpr auto kPlain = std::chrono::seconds(30);

/// Cuts at a character of UTF-8, not inside.
std::string cut(const std::string& text, int width) {
  std::string out;
  int columns = 0;
  for (const char c : text) {
    const bool starts = (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    if (starts && ++columns > width) break;
    out += c;
  }
  return out;
}

std::string head_line(const LiveState& s) {
  std::string line = fmt::format("study: {} of {} trials ended, {} running", s.ended, s.total, s.running.size());
  if (s.trouble > 0) line += fmt::format(", {} without a result", s.trouble);
  line += "  " + format_duration(s.elapsed_s);
  if (s.eta_s > 0) line += "  ETA " + format_duration(s.eta_s);
  return line;
}

/// What stands behind the label; a bar only where there is room.
std::string state_text(const LiveState::Trial& t, bool bar) {
  constexpr int kCells = 10;
  const int full = static_cast<int>(std::clamp(t.share, 0.0, 1.0) * kCells);
  std::string line = bar ? fmt::format(" [{:<{}}]", std::string(full, '='), kCells) : "";
  line += fmt::format(" {:3.0f}%  epoch {:.1f}", std::floor(100 * t.share), t.epoch);
  if (!std::isnan(t.loss)) line += fmt::format("  loss {:.3f}", t.loss);
  if (!std::isnan(t.accuracy)) line += fmt::format("  accuracy {:.2f}%", 100 * t.accuracy);
  return line + fmt::format("  {}  {}", format_duration(t.seconds), counted(t.cores, "core"));
}

}  // namespace

std::vector<std::string> table_lines(const LiveState& state, int width, int height) {
  std::vector<std::string> lines = {cut(head_line(state), width)};
  // Labels get the room that the longest rest leaves them.
  constexpr int kIndent = 2, kLeast = 8, kWide = 100;
  const bool bar = width >= kWide;
  int longest = kLeast, rest = 0;
  for (const auto& t : state.running) {
    longest = std::max(longest, static_cast<int>(t.label.size()));
    rest = std::max(rest, static_cast<int>(state_text(t, bar).size()));
  }
  const int label_width = std::clamp(width - kIndent - rest, kLeast, longest);
  const std::size_t room = static_cast<std::size_t>(std::max(height - 1, 0));
  for (std::size_t i = 0; i < state.running.size(); ++i) {
    if (i + 1 == room && state.running.size() > room) {
      lines.push_back(cut(fmt::format("  and {} more", state.running.size() - i), width));
      break;
    }
    if (i >= room) break;
    const auto& t = state.running[i];
    lines.push_back(cut(fmt::format("  {:<{}}{}", cut(t.label, label_width), label_width, state_text(t, bar)), width));
  }
  return lines;
}

LiveTable::LiveTable() : in_place_(terminal_style().bar), last_(Clock::now()) {}

bool LiveTable::due() const {
  return Clock::now() - last_ >= (in_place_ ? Clock::duration(kRedraw) : Clock::duration(kPlain));
}

void LiveTable::update(const LiveState& state) {
  state_ = state;
  last_ = Clock::now();
  if (in_place_) {
    clear();
    draw();
  } else {
    write_stderr(head_line(state) + "\n");
  }
}

void LiveTable::print(const std::string& line) {
  const bool shown = drawn_ > 0;
  clear();
  write_stderr(line + "\n");
  if (shown) draw();
}

void LiveTable::clear() {
  if (drawn_ > 0) write_stderr(fmt::format("\033[{}A\r\033[J", drawn_));
  drawn_ = 0;
}

void LiveTable::draw() {
  const TerminalSize size = terminal_size();
  std::string text;
  const auto lines = table_lines(state_, size.columns - 1, std::min(size.rows - 1, 20));
  for (const std::string& line : lines) text += line + "\n";
  drawn_ = static_cast<int>(lines.size());
  write_stderr(text);
}

}  // namespace syncbn
