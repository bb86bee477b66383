// A parallel loop on the process's OpenMP threads.
#pragma once

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

}  // namespace tokentiming
