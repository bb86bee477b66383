// A parallel loop on the process's OpenMP threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <exception>

namespace tokentiming {

// Calls f(0) .. f(n - 1). A thread takes `grain` consecutive calls at a time; a loop of at most one
// grain stays on the calling thread.
//
// An exception cannot leave an OpenMP region, so it is caught and rethrown afterwards. Of several
// exceptions, the one of the lowest index is rethrown, as in a serial loop. Calls after one that
// threw may be skipped.
template <class Function>
void parallel_for(std::size_t n, std::size_t grain, const Function& f) {
  if (n <= grain) {
    for (std::size_t k = 0; k < n; ++k) f(k);
    return;
  }
  std::exception_ptr failure;
  std::size_t failed = n;
#pragma omp parallel for schedule(dynamic, grain)
  for (std::size_t k = 0; k < n; ++k) {
    try {
      f(k);
    } catch (...) {
#pragma omp critical(tokentiming_parallel_for)
      if (k < failed) {
        failed = k;
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

// Calls f(first, last) for one range of 0 .. n - 1 for each thread. All ranges but the last one are
// as long, a multiple of `grain`. A thread reads contiguous memory, so that what it prefetches is
// its own, but the slowest one sets the time.
template <class Function>
void parallel_ranges(std::size_t n, std::size_t grain, const Function& f) {
  const auto threads = static_cast<std::size_t>(omp_get_max_threads());
  const std::size_t grains = (n + grain - 1) / grain;
  const std::size_t length = (grains + threads - 1) / threads * grain;
  const std::size_t ranges = n == 0 ? 0 : (n + length - 1) / length;
  parallel_for(ranges, 1,
               [&](std::size_t range) { f(range * length, std::min(n, (range + 1) * length)); });
}

}  // namespace tokentiming
