#pragma once

#include <cstddef>
#include <vector>

namespace tokentiming::native {

// A vector of floats, aligned to the cache lines that a load should not cross.
class AlignedFloats {
 public:
  void resize(std::size_t count) { lines_.resize((count + kLine - 1) / kLine); }
  float* data() { return reinterpret_cast<float*>(lines_.data()); }
  const float* data() const { return reinterpret_cast<const float*>(lines_.data()); }

 private:
  static constexpr std::size_t kLine = 16;
  struct alignas(64) Line {
    float at[kLine];
  };
  std::vector<Line> lines_;
};

}  // namespace tokentiming::native
