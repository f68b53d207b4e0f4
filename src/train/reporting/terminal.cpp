#include "train/reporting/terminal.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace syncbn {

TerminalStyle terminal_style(bool is_terminal, const char* term, const char* no_color, const char* force_color) {
  const auto set = [](const char* value) { return value && *value; };
  const bool dumb = !set(term) || std::string(term) == "dumb";
  TerminalStyle style;
  style.bar = is_terminal && !dumb;
  const bool forced = set(force_color) && std::string(force_color) != "0";
  style.color = !set(no_color) && (forced || style.bar);
  return style;
}

TerminalStyle terminal_style() {
  return terminal_style(::isatty(STDERR_FILENO) == 1, std::getenv("TERM"), std::getenv("NO_COLOR"),
                        std::getenv("FORCE_COLOR"));
}

TerminalSize terminal_size() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return {};
  return {size.ws_col, size.ws_row};
}

}  // namespace syncbn
