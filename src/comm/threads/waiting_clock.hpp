#pragma once

namespace syncbn::detail {

/// Seconds since some moment, but for those in which this process as a whole stood still: stopped by a signal,
/// suspended with its batch job. Every loop that waits looks here several times a second; of a longer gap between two
/// looks only a part counts. Time limits are taken by this clock, so that a job which is stopped and continued goes on.
double waiting_clock_s();

}  // namespace syncbn::detail
