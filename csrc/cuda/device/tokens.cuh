// The bytes of tokens, in device memory.
#pragma once

#include "device.h"

namespace tokentiming::cuda {

struct DeviceBytes {
  const std::uint8_t* data;
  std::int64_t size;  // -1: the id or the table's entry is out of range
};

struct DeviceTable {
  const std::uint8_t* bytes;
  std::int64_t bytes_count;
  const std::int64_t* offsets;
  std::int64_t size;  // tokens

  __device__ DeviceBytes operator[](std::int64_t id) const {
    if (id < 0 || id >= size) return {bytes, -1};
    const std::int64_t begin = offsets[id];
    const std::int64_t end = offsets[id + 1];
    if (begin < 0 || begin > end || end > bytes_count) return {bytes, -1};
    return {bytes + begin, end - begin};
  }
};

}  // namespace tokentiming::cuda
