#include "syncbn/train/progress.hpp"

#include <chrono>
#include <mutex>
#include <string_view>

#include "core/console.hpp"
#include "train/reporting/progress_line.hpp"
#include "train/reporting/terminal.hpp"

namespace syncbn {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr std::string_view kClearLine = "\r\033[K";

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

struct Progress::Impl {
  std::mutex mutex;
  bool enabled = false;
  TerminalStyle style;
  PlainPacer pacer;
  ProgressState last;
  bool any = false;      // `last` holds a state that finish() has not yet shown
  bool printed = false;  // and it is the last plain line as well
  double drawn_s = -1;   // when the bar was drawn last; < 0: no bar is on the screen

  std::string cleared(const std::string& line) const { return (style.bar ? std::string(kClearLine) : "") + line; }

  void draw(double now) {
    // One column stays free: a full line would wrap on some terminals.
    write_stderr(cleared(bar_line(last, terminal_size().columns - 1, style.color)));
    drawn_s = now;
  }
};

Progress::Progress(bool enabled) : impl_(std::make_unique<Impl>()) {
  impl_->enabled = enabled;
  impl_->style = terminal_style();
}

Progress::~Progress() {
  finish();
}

void Progress::update(const ProgressState& state) {
  if (!impl_->enabled) return;
  const std::scoped_lock lock(impl_->mutex);
  const double now = now_s();
  impl_->last = state;
  impl_->any = true;
  impl_->printed = false;
  if (impl_->style.bar) {
    if (impl_->drawn_s < 0 || now - impl_->drawn_s >= kRedrawSeconds || state.done >= state.total) impl_->draw(now);
  } else if (impl_->pacer.due(now, state)) {
    write_stderr(plain_line(state, impl_->style.color) + "\n");
    impl_->printed = true;
  }
}

void Progress::print(const std::string& line) {
  if (!impl_->enabled) return;
  const std::scoped_lock lock(impl_->mutex);
  write_stderr(impl_->cleared(line + "\n"));
  if (impl_->drawn_s >= 0) impl_->draw(now_s());
}

void Progress::finish() {
  if (!impl_->enabled) return;
  const std::scoped_lock lock(impl_->mutex);
  if (impl_->any && !impl_->printed) write_stderr(impl_->cleared(plain_line(impl_->last, impl_->style.color) + "\n"));
  impl_->any = false;
  impl_->drawn_s = -1;
}

}  // namespace syncbn
