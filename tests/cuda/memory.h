// Device memory for tests: a GPU's, or the host's if the kernels are emulated.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifdef TOKENTIMING_EMULATED
#include "emulation/device.h"
#else
#include <cuda_runtime_api.h>
#endif

#include "tokentiming/cuda.h"

namespace tokentiming::test {

#ifdef TOKENTIMING_EMULATED

// Memory of exactly the given size, so that AddressSanitizer detects accesses beyond it.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()), data_(new T[size_]) {
    std::copy(values.begin(), values.end(), data_.get());
  }
  T* data() const { return data_.get(); }
  std::span<T> span() const { return {data_.get(), size_}; }
  std::vector<T> read() const { return {data_.get(), data_.get() + size_}; }

 private:
  std::size_t size_;
  std::unique_ptr<T[]> data_;
};

// Calls f once for each schedule: several orders of threads and numbers of resident blocks. Under
// AddressSanitizer, which is slow and checks addresses rather than orders, once.
template <class F>
void for_each_schedule(const F& f) {
  using emulation::Order;
  struct Way {
    Order order;
    unsigned seed;
    std::size_t resident_blocks;
  };
#ifdef TOKENTIMING_ASAN
  constexpr Way kWays[] = {{Order::kForward, 0, 8}};
#else
  constexpr Way kWays[] = {{Order::kForward, 0, 8},
                           {Order::kReverse, 0, 3},
                           {Order::kRandom, 1, 8},
                           {Order::kRandom, 2, 5}};
#endif
  auto& schedule = emulation::schedule();
  for (const Way& way : kWays) {
    schedule.order = way.order;
    schedule.seed = way.seed;
    schedule.resident_blocks = way.resident_blocks;
    f();
  }
}

#else

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    check(cudaMalloc(reinterpret_cast<void**>(&data_), size_ * sizeof(T)));
    check(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  std::span<T> span() const { return {data_, size_}; }
  std::vector<T> read() const {
    std::vector<T> values(size_);
    check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  std::size_t size_;
  T* data_ = nullptr;
};

// A GPU has its own schedule: two runs may differ.
template <class F>
void for_each_schedule(const F& f) {
  f();
  f();
}

#endif

// A workspace with arbitrary contents.
inline std::vector<std::byte> garbage_workspace(std::size_t bytes) {
  return std::vector<std::byte>(bytes, std::byte{0xAB});
}

}  // namespace tokentiming::test
