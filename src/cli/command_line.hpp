#pragma once

#include "syncbn/core/error.hpp"

namespace syncbn::cli {

/// Reads the command line and runs the subcommand it names. Throws Error(usage) for what it does not understand; help
/// and version go to stdout.
ExitCode run(int argc, char** argv);

}  // namespace syncbn::cli
