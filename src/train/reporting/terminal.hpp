#pragma once

namespace syncbn {

/// What the environment and the terminal allow.
struct TerminalStyle {
  bool bar = false;
  bool color = false;
};
/// Pointers are values of environment variables, null when unset. NO_COLOR wins over FORCE_COLOR.
TerminalStyle terminal_style(bool is_terminal, const char* term, const char* no_color, const char* force_color);
/// The style for standard error.
TerminalStyle terminal_style();

/// Size of the terminal behind standard error; 80 x 24 if it is no terminal.
struct TerminalSize {
  int columns = 80, rows = 24;
};
TerminalSize terminal_size();

}  // namespace syncbn
