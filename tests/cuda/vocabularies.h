// Random vocabularies for tests.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "memory.h"
#include "tokentiming/align.h"

namespace tokentiming::test {

struct Table {
  std::vector<std::uint8_t> bytes;
  std::vector<std::int64_t> offsets{0};

  explicit Table(const std::vector<std::string>& tokens) {
    for (const auto& token : tokens) {
      bytes.insert(bytes.end(), token.begin(), token.end());
      offsets.push_back(static_cast<std::int64_t>(bytes.size()));
    }
  }
  ByteTable here() const { return {bytes, offsets}; }
};

struct DeviceTable {
  DeviceArray<std::uint8_t> bytes;
  DeviceArray<std::int64_t> offsets;

  explicit DeviceTable(const Table& table) : bytes(table.bytes), offsets(table.offsets) {}
  ByteTable there() const { return {bytes.span(), offsets.span()}; }
};

inline std::string random_string(std::mt19937& random, std::size_t length) {
  std::string s(length, ' ');
  for (char& c : s) c = static_cast<char>('a' + random() % 3);
  return s;
}

}  // namespace tokentiming::test
