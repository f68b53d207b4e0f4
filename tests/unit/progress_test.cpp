#include "syncbn/train/progress.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "train/reporting/progress_line.hpp"
#include "train/reporting/terminal.hpp"

namespace syncbn {
namespace {

ProgressState middle() {
  ProgressState state;
  state.done = 421;
  state.total = 1000;
  state.epoch = 3.25;
  state.images_per_second = 1234.4;
  state.loss = 1.23456;
  state.accuracy = 0.6789;
  state.eta_s = 151;
  state.wait_statistics = 0.031;
  state.wait_gradients = 0.012;
  return state;
}

TEST(Progress, Durations) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(151), "2:31");
  EXPECT_EQ(format_duration(3723), "1:02:03");
  EXPECT_EQ(format_duration(360000), "100:00:00");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Progress, PlainLineSaysEverything) {
  EXPECT_EQ(plain_line(middle(), false),
            "train 42%  421/1000  epoch 3.25  1234 images/s  loss 1.2346  accuracy 67.89%  wait bn 3% grad 1%  ETA "
            "2:31");
}

TEST(Progress, PlainLineOmitsWhatIsUnknown) {
  ProgressState state;
  state.done = state.total = 10;
  state.loss = state.accuracy = std::nan("");
  EXPECT_EQ(plain_line(state, false), "train 100%  10/10");
  state.total = 0;
  state.done = 0;
  EXPECT_EQ(plain_line(state, false), "train 0%  0/0");
}

TEST(Progress, OnlyTheEndIsAHundredPercent) {
  ProgressState state = middle();
  state.done = 999999;
  state.total = 1000000;
  EXPECT_TRUE(plain_line(state, false).starts_with("train 99%"));
}

TEST(Progress, BarFitsEveryWidth) {
  ProgressState state = middle();
  for (const std::int64_t done : {0, 421, 1000, 2000}) {
    state.done = done;
    std::size_t last = 0;
    for (int width = 0; width < 220; ++width) {
      const std::string line = bar_line(state, width, false);
      ASSERT_LE(line.size(), static_cast<std::size_t>(width));
      if (width > 30) {
        ASSERT_GE(line.size() + 30, last) << "a wider terminal shows less";
      }
      last = line.size();
    }
  }
}

TEST(Progress, BarShowsItsShareAndDropsDetailsFirst) {
  ProgressState state = middle();
  state.done = 500;
  const std::string wide = bar_line(state, 200, false);
  EXPECT_TRUE(wide.starts_with("train  50% [====================>                   ]")) << wide;
  EXPECT_NE(wide.find("wait bn 3% grad 1%"), std::string::npos);
  EXPECT_NE(wide.find("ETA 2:31"), std::string::npos);
  const std::string narrow = bar_line(state, 60, false);
  EXPECT_EQ(narrow.find("wait"), std::string::npos) << narrow;
  EXPECT_EQ(narrow.find("accuracy"), std::string::npos) << narrow;
  EXPECT_NE(narrow.find("ETA 2:31"), std::string::npos) << narrow;
  EXPECT_NE(narrow.find("loss"), std::string::npos) << narrow;
  state.done = state.total;
  EXPECT_NE(bar_line(state, 200, false).find("[========================================]"), std::string::npos);
}

TEST(Progress, ColourAddsOnlyCodes) {
  const auto without_codes = [](std::string text) {
    EXPECT_NE(text.find("\033[1m"), std::string::npos);
    for (std::size_t at; (at = text.find('\033')) != std::string::npos;) text.erase(at, text.find('m', at) - at + 1);
    return text;
  };
  EXPECT_EQ(without_codes(bar_line(middle(), 100, true)), bar_line(middle(), 100, false));
  EXPECT_EQ(without_codes(plain_line(middle(), true)), plain_line(middle(), false));
}

TEST(Progress, StyleFollowsTheEnvironment) {
  const auto style = [](bool tty, const char* term, const char* no_color, const char* force) {
    const TerminalStyle s = terminal_style(tty, term, no_color, force);
    return std::pair(s.bar, s.color);
  };
  EXPECT_EQ(style(true, "xterm", nullptr, nullptr), std::pair(true, true));
  EXPECT_EQ(style(true, "xterm", "1", nullptr), std::pair(true, false));
  EXPECT_EQ(style(true, "xterm", "", nullptr), std::pair(true, true)) << "an empty NO_COLOR is none";
  EXPECT_EQ(style(true, "xterm", "1", "1"), std::pair(true, false));
  EXPECT_EQ(style(true, "dumb", nullptr, nullptr), std::pair(false, false));
  EXPECT_EQ(style(true, nullptr, nullptr, nullptr), std::pair(false, false));
  EXPECT_EQ(style(false, "xterm", nullptr, nullptr), std::pair(false, false));
  EXPECT_EQ(style(false, "xterm", nullptr, "1"), std::pair(false, true));
  EXPECT_EQ(style(false, "xterm", nullptr, "0"), std::pair(false, false));
}

int plain_lines(double seconds_per_step, std::int64_t total) {
  PlainPacer pacer;
  ProgressState state = middle();
  state.total = total;
  int lines = 0;
  for (state.done = 1; state.done <= total; ++state.done) {
    lines += pacer.due(seconds_per_step * static_cast<double>(state.done), state);
  }
  return lines;
}

TEST(Progress, PlainLinesArePaced) {
  EXPECT_EQ(plain_lines(0.0005, 1000), 2) << "half a second: the first step and the last";
  EXPECT_EQ(plain_lines(0.05, 1000), 11) << "a quick run: the first step, then every 10 %";
  EXPECT_EQ(plain_lines(1, 1000), 101) << "a slow run: the first step, then every 10 s";
  EXPECT_EQ(plain_lines(60, 5), 5);
}

TEST(Progress, StartAndEndAreSaidOnce) {
  PlainPacer pacer;
  ProgressState state = middle();
  state.done = 1;
  EXPECT_TRUE(pacer.due(0, state));
  EXPECT_FALSE(pacer.due(1, state));
  state.done = state.total;
  EXPECT_TRUE(pacer.due(3, state));
  EXPECT_FALSE(pacer.due(30, state));
}

TEST(Progress, SilentWhenDisabled) {
  testing::internal::CaptureStderr();
  {
    Progress progress(false);
    progress.update(middle());
    progress.print("text");
    progress.finish();
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, PlainOutputEndsWithTheLastState) {
  ::setenv("NO_COLOR", "1", 1);
  testing::internal::CaptureStderr();
  ProgressState state = middle();
  {
    Progress progress(true);
    progress.update(state);
    progress.print("saved");
    state.done = 430;
    progress.update(state);
    progress.finish();
    progress.finish();
  }
  ::unsetenv("NO_COLOR");
  const std::string first = plain_line(middle(), false), last = plain_line(state, false);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), first + "\nsaved\n" + last + "\n");
}

}  // namespace
}  // namespace syncbn
