// What device/launch.h declares with nvcc, for emulated kernels.
#pragma once

#include <cstring>

#include "device.h"

namespace tokentiming::cuda {

inline void require_cuda(const char*) {}

class DeviceGuard {
 public:
  DeviceGuard(const char*, Stream) {}
};

template <class... Parameters>
void launch(const char*, void (*kernel)(Parameters...), const Grid& grid, Stream,
            const std::type_identity_t<Parameters>&... arguments) {
  emulation::run({grid.columns, grid.rows}, grid.threads, grid.shared_bytes,
                 [&] { kernel(arguments...); });
}

template <class T>
void zero(const char*, std::span<T> memory, Stream) {
  std::memset(static_cast<void*>(memory.data()), 0, memory.size_bytes());
}

inline std::size_t multiprocessors(const char*, int) {
  return static_cast<std::size_t>(emulation::schedule().multiprocessors);
}

}  // namespace tokentiming::cuda
