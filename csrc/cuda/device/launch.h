// Launching kernels from the host. Every error is thrown with the operation's name.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "device.h"
#include "tokentiming/cuda.h"

namespace tokentiming::cuda {

struct Grid {
  unsigned columns;
  unsigned rows;
  unsigned threads;
  std::size_t shared_bytes;
};

// Divides a workspace into arrays, one after another.
class Workspace {
 public:
  Workspace(const char* operation, std::span<std::byte> bytes)
      : operation_(operation), remaining_(bytes) {
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % kAlignment != 0) {
      throw std::invalid_argument(std::string(operation) +
                                  ": workspace is not aligned to 16 bytes");
    }
  }

  template <class T>
  std::span<T> allocate(std::size_t count) {
    const std::size_t bytes = size<T>(count);
    if (bytes > remaining_.size()) {
      throw std::invalid_argument(std::string(operation_) + ": workspace is too small, by " +
                                  std::to_string(bytes - remaining_.size()) + " bytes or more");
    }
    const std::span<T> part(reinterpret_cast<T*>(remaining_.data()), count);
    remaining_ = remaining_.subspan(bytes);
    return part;
  }

  template <class T>
  static constexpr std::size_t size(std::size_t count) {
    return (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  static constexpr std::size_t kAlignment = 16;

  const char* operation_;
  std::span<std::byte> remaining_;
};

}  // namespace tokentiming::cuda

#ifdef __CUDACC__
namespace tokentiming::cuda {

// Throws std::runtime_error in a build without CUDA. Every function of tokentiming::cuda calls it
// first.
inline void require_cuda(const char*) {}

inline void check(const char* operation, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, which is reported here
  throw std::runtime_error(std::string(operation) + ": " + cudaGetErrorString(error));
}

// Makes the stream's device the current one for its lifetime.
class DeviceGuard {
 public:
  DeviceGuard(const char* operation, Stream stream) : operation_(operation) {
    check(operation_, cudaGetDevice(&before_));
    changed_ = before_ != stream.device;
    if (changed_) check(operation_, cudaSetDevice(stream.device));
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  const char* operation_;
  int before_ = 0;
  bool changed_ = false;
};

template <class... Parameters>
void launch(const char* operation, void (*kernel)(Parameters...), const Grid& grid, Stream stream,
            const std::type_identity_t<Parameters>&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.columns, grid.rows);
  config.blockDim = dim3(grid.threads);
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream.handle);
  check(operation, cudaLaunchKernelEx(&config, kernel, arguments...));
}

template <class T>
void zero(const char* operation, std::span<T> memory, Stream stream) {
  check(operation, cudaMemsetAsync(memory.data(), 0, memory.size_bytes(),
                                   static_cast<cudaStream_t>(stream.handle)));
}

inline std::size_t multiprocessors(const char* operation, int device) {
  int count = 0;
  check(operation, cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return static_cast<std::size_t>(count);
}

}  // namespace tokentiming::cuda
#elif defined(TOKENTIMING_EMULATED)
#include "../emulation/launch.h"
#else
#include "../unavailable/launch.h"
#endif
