// What device/launch.h declares with nvcc, in a build without CUDA: everything throws.
#pragma once

#include <stdexcept>
#include <string>

namespace tokentiming::cuda {

[[noreturn]] inline void require_cuda(const char* operation) {
  throw std::runtime_error(std::string(operation) +
                           ": tokentiming was built without CUDA; build it where nvcc is found, "
                           "with TOKENTIMING_CUDA=ON, or move the tensors to the CPU");
}

class DeviceGuard {
 public:
  DeviceGuard(const char* operation, Stream) { require_cuda(operation); }
};

template <class... Parameters>
void launch(const char* operation, void (*)(Parameters...), const Grid&, Stream,
            const std::type_identity_t<Parameters>&...) {
  require_cuda(operation);
}

template <class T>
void zero(const char* operation, std::span<T>, Stream) {
  require_cuda(operation);
}

inline std::size_t multiprocessors(const char* operation, int) { require_cuda(operation); }

}  // namespace tokentiming::cuda
