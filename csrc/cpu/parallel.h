// A parallel loop on the process's OpenMP threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <vector>

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

// Calls f(first, last) for blocks of 0 .. n - 1. A block is as long as the part of a thread, but at
// most `most`, and a multiple of `grain`; the last one may be shorter.
//
// Each thread starts with contiguous blocks, so that the memory it prefetches is its own, and then
// takes blocks that slower threads have not begun. Of several exceptions any is rethrown.
template <class Function>
void parallel_blocks(std::size_t n, std::size_t grain, std::size_t most, const Function& f) {
  struct alignas(64) Part {  // in a cache line of its own
    std::atomic<std::size_t> next;
    std::size_t end;
  };
  const auto threads = static_cast<std::size_t>(omp_get_max_threads());
  const std::size_t block = std::clamp(n / threads / grain * grain, grain, most);
  const std::size_t blocks = (n + block - 1) / block;
  std::vector<Part> parts(std::min(threads, blocks));
  for (std::size_t p = 0; p < parts.size(); ++p) {
    parts[p].next = blocks * p / parts.size();
    parts[p].end = blocks * (p + 1) / parts.size();
  }
  parallel_for(parts.size(), 1, [&](std::size_t own) {
    for (std::size_t p = 0; p < parts.size(); ++p) {
      Part& part = parts[(own + p) % parts.size()];
      while (part.next < part.end) {
        const std::size_t taken = part.next++;
        if (taken < part.end) f(taken * block, std::min(n, (taken + 1) * block));
      }
    }
  });
}

}  // namespace tokentiming
