#pragma once

#include <string>
#include <vector>

#include "study/report/charts.hpp"

namespace syncbn {

/// What the study shows, in sentences computed from its trials. A difference, seed by seed, is claimed
/// only where its 95 % interval leaves out zero; otherwise the sentence says that none can be shown.
std::vector<std::string> answer(const Results& results);

/// The sentences about one chart.
std::vector<std::string> answer(const ErrorChart& chart);

/// How the figures and sentences of the study are to be read.
std::vector<std::string> notes(const Results& results);

}  // namespace syncbn
