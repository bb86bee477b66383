// A fuzzer's bytes as the arguments of an operation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), end_(data + size) {}

  // Mostly small, sometimes any 64 bits; 0 once the bytes are used up.
  std::int64_t number() {
    if (data_ == end_) return 0;
    const auto small = static_cast<std::int8_t>(*data_++);
    if (small != INT8_MIN) return small;
    std::int64_t wide = 0;
    const auto count = std::min<std::size_t>(sizeof wide, static_cast<std::size_t>(end_ - data_));
    std::memcpy(&wide, data_, count);
    data_ += count;
    return wide;
  }

  // Mostly in [0, n), sometimes any number: an input with a single fault reaches the most code.
  std::int64_t below(std::int64_t n) {
    if (data_ == end_) return 0;
    if (static_cast<std::int8_t>(*data_) == INT8_MIN) return number();
    return *data_++ % std::max<std::int64_t>(n, 1);
  }

  // 0 to 15 numbers below n.
  std::vector<std::int64_t> several_below(std::int64_t n) {
    std::vector<std::int64_t> values(count());
    for (auto& value : values) value = below(n);
    return values;
  }

  // The offsets of a table whose tokens mostly have 0 to 3 bytes.
  std::vector<std::int64_t> starts() {
    std::vector<std::int64_t> values(count() + 1);
    for (std::size_t k = 1; k < values.size(); ++k) {
      const auto before = static_cast<std::uint64_t>(values[k - 1]);
      values[k] = static_cast<std::int64_t>(before + static_cast<std::uint64_t>(below(4)));
    }
    return values;
  }

  // 0 to 15 numbers.
  std::vector<std::int64_t> numbers() {
    std::vector<std::int64_t> values(count());
    for (auto& value : values) value = number();
    return values;
  }

  std::vector<std::uint8_t> rest() { return {data_, end_}; }

  // 0 to 15.
  std::size_t count() { return static_cast<std::size_t>(number() & 15); }

 private:
  const std::uint8_t* data_;
  const std::uint8_t* end_;
};

inline void require(bool holds) {
  if (!holds) std::abort();
}
