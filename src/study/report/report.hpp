#pragma once

#include <string>
#include <vector>

namespace syncbn {

/// Writes one HTML file about one or more studies, from their folders: the answer in words, charts, tables, and what
/// was run. It needs nothing else to be shown. Throws Error(usage) for a folder that holds no study, Error on I/O
/// failure.
void write_report(const std::vector<std::string>& dirs, const std::string& file);

/// For the terminal: a line per point (mean error and 95 % interval over seeds), the answer in words, and the files.
std::string summary_text(const std::string& dir);

}  // namespace syncbn
