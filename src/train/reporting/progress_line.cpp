#include "train/reporting/progress_line.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace syncbn {
namespace {

const std::string kBold = "\033[1m", kGreen = "\033[32m", kPlain = "\033[0m";

double share_of(const ProgressState& state) {
  if (state.total <= 0) return 0;
  return std::clamp(static_cast<double>(state.done) / static_cast<double>(state.total), 0.0, 1.0);
}

int percent(double share) {
  // Rounded down: 100 % means done.
  return static_cast<int>(std::clamp(share, 0.0, 1.0) * 100);
}

/// Text pieces in the order of the line, each with a rank: higher ranks are dropped first.
struct Piece {
  std::string text;
  int rank = 0;
};

std::vector<Piece> pieces_of(const ProgressState& state) {
  std::vector<Piece> pieces;
  pieces.push_back({fmt::format("{}/{}", state.done, state.total), 4});
  if (state.epoch > 0) pieces.push_back({fmt::format("epoch {:.2f}", state.epoch), 5});
  if (state.images_per_second > 0) pieces.push_back({fmt::format("{:.0f} images/s", state.images_per_second), 3});
  if (!std::isnan(state.loss)) pieces.push_back({fmt::format("loss {:.4f}", state.loss), 2});
  if (!std::isnan(state.accuracy)) pieces.push_back({fmt::format("accuracy {:.2f}%", state.accuracy * 100), 6});
  if (state.wait_statistics > 0 || state.wait_gradients > 0) {
    pieces.push_back(
        {fmt::format("wait bn {:.0f}% grad {:.0f}%", state.wait_statistics * 100, state.wait_gradients * 100), 7});
  }
  if (state.done < state.total) pieces.push_back({"ETA " + format_duration(state.eta_s), 1});
  return pieces;
}

std::string joined(const std::vector<Piece>& pieces, int max_rank) {
  std::string text;
  for (const Piece& piece : pieces) {
    if (piece.rank <= max_rank) text += "  " + piece.text;
  }
  return text;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const auto s = static_cast<long>(std::lround(seconds));
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

std::string plain_line(const ProgressState& state, bool color) {
  const std::string head = fmt::format("train {}%", percent(share_of(state)));
  return (color ? kBold + head + kPlain : head) + joined(pieces_of(state), 7);
}

std::string bar_line(const ProgressState& state, int width, bool color) {
  constexpr int kMinBar = 10, kMaxBar = 40;
  const double share = share_of(state);
  const std::string head = fmt::format("train {:3}% ", percent(share));
  const std::vector<Piece> pieces = pieces_of(state);

  std::string tail;
  for (int rank = 7; rank >= 0; --rank) {
    tail = joined(pieces, rank);
    if (static_cast<int>(head.size() + tail.size()) + kMinBar + 2 <= width) break;
  }
  const int room = width - static_cast<int>(head.size() + tail.size()) - 2;
  if (room < kMinBar) return (head + tail).substr(0, static_cast<std::size_t>(std::max(width, 0)));

  const int cells = std::min(room, kMaxBar), full = static_cast<int>(share * cells);
  std::string bar(static_cast<std::size_t>(full), '=');
  if (full < cells) bar += '>';
  const std::string rest(static_cast<std::size_t>(cells) - bar.size(), ' ');
  if (!color) return head + "[" + bar + rest + "]" + tail;
  return kBold + head + kPlain + "[" + kGreen + bar + kPlain + rest + "]" + tail;
}

bool PlainPacer::due(double now_s, const ProgressState& state) {
  constexpr double kSeconds = 10, kShare = 0.1, kMinSeconds = 1;
  const double share = share_of(state);
  const bool complete = state.total > 0 && state.done >= state.total;
  const bool starts = !started_, ends = complete && !finished_;
  const double waited = now_s - last_s_;
  // The epsilon lets exact tenths through: 0.3 - 0.2 is below 0.1.
  const bool moved = waited >= kMinSeconds && share - last_share_ >= kShare - 1e-9;
  const bool due_now = !finished_ && (moved || waited >= kSeconds);
  if (!starts && !ends && !due_now) return false;
  started_ = true;
  last_s_ = now_s;
  last_share_ = share;
  finished_ = complete;
  return true;
}

}  // namespace syncbn
