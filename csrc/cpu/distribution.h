// One row, read block by block as a distribution over the vocabulary.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "refuse.h"
#include "simd/dispatch.h"
#include "tokentiming/rows.h"
#include "widen.h"

namespace tokentiming {

inline constexpr std::size_t kBlock = 1024;

template <class T>
using Block = std::array<T, kBlock>;

// A row in blocks of T, float or double, the type of the arithmetic. Error messages begin with
// `function` and name the argument `name`.
template <class T>
class Row {
 public:
  Row(const Distributions& distributions, std::size_t row, const char* name,
      const char* function = "verify")
      : distributions_(&distributions),
        row_(row),
        name_(name),
        function_(function),
        kernels_(&simd::blocks_of<T>(simd::fastest_kernels())) {}

  static std::size_t columns(const Distributions& distributions) {
    return std::visit([](const auto& rows) { return rows.columns; }, distributions.rows);
  }
  std::size_t columns() const { return columns(*distributions_); }
  static std::size_t blocks(const Distributions& distributions) {
    return (columns(distributions) + kBlock - 1) / kBlock;
  }
  std::size_t blocks() const { return blocks(*distributions_); }
  std::size_t count(std::size_t block) const {
    return std::min(kBlock, columns() - block * kBlock);
  }
  bool is_logits() const { return distributions_->is_logits; }
  const simd::BlockKernels<T>& kernels() const { return *kernels_; }

  // The entries of a block: a pointer to the row if it is of type T, else widened into `buffer`.
  const T* read(std::size_t block, T* buffer) const {
    return std::visit(
        [&]<class Number>(const Rows<const Number>& rows) -> const T* {
          const Number* from = rows[row_] + block * kBlock;
          if constexpr (std::is_same_v<Number, T>) {
            return from;
          } else if constexpr (std::is_same_v<Number, Half>) {
            kernels_->widen_half(from, count(block), buffer);
          } else if constexpr (std::is_same_v<Number, BFloat16>) {
            kernels_->widen_bfloat16(from, count(block), buffer);
          } else {
            std::copy_n(from, count(block), buffer);
          }
          return buffer;
        },
        distributions_->rows);
  }

  T entry(std::size_t token) const {
    return std::visit([&](const auto& rows) { return static_cast<T>(widen(rows[row_][token])); },
                      distributions_->rows);
  }

  // Throws unless the greatest logit is finite. NaN among the logits counts as +inf.
  void require_finite(T maximum) const {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    if (maximum == kInfinity) refuse("holds NaN or +inf");
    if (maximum == -kInfinity) refuse("has no finite logit");
  }
  [[noreturn]] void refuse(const std::string& reason) const {
    tokentiming::refuse(function_, std::string(name_) + "[" + std::to_string(row_) + "] " + reason);
  }

 private:
  const Distributions* distributions_;
  std::size_t row_;
  const char* name_;
  const char* function_;
  const simd::BlockKernels<T>* kernels_;
};

// The row as a distribution. For logits, call reduce_block for every block, in any order and from
// any thread, then normalise() once; only then may a probability be read.
template <class T>
class Distribution : public Row<T> {
 public:
  Distribution(const Distributions& distributions, std::size_t row, double temperature,
               const char* name, const char* function = "verify")
      : Row<T>(distributions, row, name, function) {
    constexpr double kLog2E = 1.44269504088896340736;
    // Not 0, which makes NaN of -inf.
    constexpr auto kMinScale = static_cast<double>(std::numeric_limits<T>::min());
    constexpr auto kMaxScale = static_cast<double>(std::numeric_limits<T>::max());
    scale_ = static_cast<T>(std::clamp(kLog2E / temperature, kMinScale, kMaxScale));
    if (!this->is_logits()) return;
    maxima_.resize(this->blocks());
    masses_.resize(this->blocks());
  }

  // Computes the softmax state of one block.
  void reduce_block(std::size_t block) {
    Block<T> buffer;
    const T* x = this->read(block, buffer.data());
    const simd::SoftmaxState<T> state =
        this->kernels().softmax_state(x, this->count(block), scale_);
    maxima_[block] = state.maximum;
    masses_[block] = state.sum;
  }

  // Merges the states of all blocks.
  void normalise() {
    if (maxima_.empty()) this->refuse("has no columns");
    shift_ = *std::max_element(maxima_.begin(), maxima_.end());
    const bool nan = std::ranges::any_of(masses_, [](double sum) { return std::isnan(sum); });
    this->require_finite(nan ? std::numeric_limits<T>::infinity() : shift_);
    this->kernels().exponentials(maxima_.data(), maxima_.size(), shift_, scale_, T{1},
                                 maxima_.data());
    double total = 0.0;
    for (std::size_t b = 0; b < masses_.size(); ++b) {
      total += masses_[b] * static_cast<double>(maxima_[b]);
    }
    factor_ = static_cast<T>(1.0 / total);
    // Multiplies by the probability of the most probable token: a block with a token of nonzero
    // probability then has nonzero mass.
    for (std::size_t b = 0; b < masses_.size(); ++b) {
      masses_[b] *= static_cast<double>(maxima_[b] * factor_);
    }
  }

  // The probability of one token.
  T operator()(std::size_t token) const {
    const T x = this->entry(token);
    if (!this->is_logits()) {
      if (!(x >= 0 && x < std::numeric_limits<T>::infinity())) refuse_probabilities();
      return x;
    }
    T probability;
    this->kernels().exponentials(&x, 1, shift_, scale_, factor_, &probability);
    return probability;
  }

  // The probabilities of a block: in `buffer`, or a pointer to the row.
  const T* probabilities(std::size_t block, T* buffer) const {
    const T* x = this->read(block, buffer);
    if (!this->is_logits()) return x;
    this->kernels().exponentials(x, this->count(block), shift_, scale_, factor_, buffer);
    return buffer;
  }

  // The sum of a block's probabilities; NaN if one is NaN, infinite or negative.
  double mass(std::size_t block) const {
    if (this->is_logits()) return masses_[block];
    Block<T> buffer;
    return this->kernels().sum(this->read(block, buffer.data()), this->count(block));
  }

  [[noreturn]] void refuse_probabilities() const {
    this->refuse("holds NaN, infinity or a negative probability");
  }

 private:
  T scale_ = 1;
  T shift_ = 0;
  T factor_ = 1;
  std::vector<T> maxima_;  // of each block
  std::vector<double> masses_;
};

}  // namespace tokentiming
