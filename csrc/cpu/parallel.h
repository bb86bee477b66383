// A loop shared among the process's OpenMP threads.
#pragma once

#include <cstddef>
#include <exception>

namespace tokentiming {

// Calls f(0) .. f(n - 1), `grain` consecutive ones at a time to a thread; a loop of at most one
// grain stays on the calling thread. Every call is made; an exception of one of them, which could
// not leave an OpenMP region, is thrown again afterwards.
template <class Function>
void parallel_for(std::size_t n, std::size_t grain, const Function& f) {
  if (n <= grain) {
    for (std::size_t k = 0; k < n; ++k) f(k);
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic, grain)
  for (std::size_t k = 0; k < n; ++k) {
    try {
      f(k);
    } catch (...) {
#pragma omp critical(tokentiming_parallel_for)
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace tokentiming
