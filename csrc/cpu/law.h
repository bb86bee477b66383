// One row of numbers, read block by block as a law over the vocabulary.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "blocks/blocks.h"
#include "parallel.h"
#include "tokentiming/verify.h"
#include "widen.h"

namespace tokentiming {

inline constexpr std::size_t kBlock = 4096;

// Blocks handed to a thread at a time: 128 KiB of floats against microseconds for a wake-up.
inline constexpr std::size_t kBlocksPerTask = 8;

template <class T>
using Block = std::array<T, kBlock>;

// T, float or double, is what is reckoned with. `name` stands in error messages, which the law
// throws when it meets NaN, +inf, a negative probability or logits without a finite one.
template <class T>
class Law {
 public:
  Law(const Laws& laws, std::size_t row, double temperature, const char* name)
      : laws_(laws), row_(row), name_(name), kernels_(block_kernels<T>().front()) {
    constexpr auto kMost = static_cast<double>(std::numeric_limits<T>::max());
    scale_ = static_cast<T>(std::min(1.0 / temperature, kMost));
    if (laws.statement == Statement::kLogits) normalise();
  }

  static std::size_t columns(const Laws& laws) {
    return std::visit([](const auto& rows) { return rows.columns; }, laws.rows);
  }
  std::size_t columns() const { return columns(laws_); }
  std::size_t blocks() const { return (columns() + kBlock - 1) / kBlock; }
  std::size_t count(std::size_t block) const {
    return std::min(kBlock, columns() - block * kBlock);
  }

  // The probability of one token.
  T operator()(std::size_t token) const {
    T entry;
    const T* x = read(token, 1, &entry);
    if (laws_.statement == Statement::kLogits) {
      kernels_.exponentials(x, 1, shift_, scale_, factor_, &entry);
    } else {
      entry = *x;
      if (!(entry >= 0 && entry < std::numeric_limits<T>::infinity())) refuse_probabilities();
    }
    return entry;
  }

  // The probabilities of a block.
  void read_block(std::size_t block, T* out) const {
    const T* x = read(block * kBlock, count(block), out);
    if (laws_.statement == Statement::kLogits) {
      kernels_.exponentials(x, count(block), shift_, scale_, factor_, out);
    } else if (x != out) {
      std::copy_n(x, count(block), out);
    }
  }

  [[noreturn]] void refuse_probabilities() const {
    refuse("holds NaN, infinity or a negative probability");
  }
  [[noreturn]] void refuse(const std::string& reason) const {
    throw std::invalid_argument("verify: " + std::string(name_) + "[" + std::to_string(row_) +
                                "] " + reason);
  }

 private:
  // Entries of the row, where they lie if they are of type T, else widened into `buffer`.
  const T* read(std::size_t begin, std::size_t count, T* buffer) const {
    return std::visit(
        [&]<class Number>(const Rows<const Number>& rows) -> const T* {
          const Number* from = rows[row_] + begin;
          if constexpr (std::is_same_v<Number, T>) {
            return from;
          } else {
            for (std::size_t k = 0; k < count; ++k) buffer[k] = static_cast<T>(widen(from[k]));
            return buffer;
          }
        },
        laws_.rows);
  }

  // Softmax in one pass: each block is summed beneath its own maximum, then put on a common scale.
  void normalise() {
    std::vector<T> maxima(blocks());
    std::vector<double> sums(blocks());
    parallel_for(blocks(), kBlocksPerTask, [&](std::size_t block) {
      Block<T> buffer;
      const T* x = read(block * kBlock, count(block), buffer.data());
      maxima[block] = kernels_.maximum(x, count(block));
      if (!finite(maxima[block])) return;
      kernels_.exponentials(x, count(block), maxima[block], scale_, T{1}, buffer.data());
      sums[block] = kernels_.sum(buffer.data(), count(block));
    });
    shift_ = -std::numeric_limits<T>::infinity();
    for (T maximum : maxima) shift_ = std::max(shift_, maximum);
    if (shift_ == std::numeric_limits<T>::infinity()) refuse("holds NaN or +inf");
    if (!finite(shift_)) refuse("has no finite logit");
    double total = 0.0;
    for (std::size_t block = 0; block < blocks(); ++block) {
      if (!finite(maxima[block])) continue;
      T beneath;
      kernels_.exponentials(&maxima[block], 1, shift_, scale_, T{1}, &beneath);
      total += sums[block] * static_cast<double>(beneath);
    }
    factor_ = static_cast<T>(1.0 / total);
  }

  static bool finite(T x) {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    return x > -kInfinity && x < kInfinity;
  }

  const Laws& laws_;
  std::size_t row_;
  const char* name_;
  const BlockKernels<T>& kernels_;
  T scale_ = 1;
  T shift_ = 0;
  T factor_ = 1;
};

}  // namespace tokentiming
