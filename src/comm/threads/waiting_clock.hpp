#pragma once

namespace syncbn::detail {

/// A monotonic clock in seconds that does not count the time during which the whole process stood still: stopped by a
/// signal, or suspended with its batch job. Every waiting loop reads it several times a second; of a longer gap between
/// two readings only 1 s counts. Time limits use this clock, so that a job can be stopped and continued.
double waiting_clock_s();

}  // namespace syncbn::detail
