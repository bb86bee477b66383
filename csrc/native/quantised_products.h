// Products of quantised weights, a tile of outputs and a few rows at a time.
//
// `Products` is what an instruction set does with bytes: the sums of the integer products of a row
// and a group of weights. Each file that includes this one is compiled for another instruction set,
// at least AVX2 and FMA, so nothing here may have external linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "native/kernels.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kVector = 32;   // bytes
constexpr std::size_t kAhead = 2048;  // bytes between the weights that are read and prefetched

// 8 bfloat16 numbers as floats.
inline __m256 widened(const std::uint8_t* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// kStepInputs inputs, repeated for each output.
inline __m256i step(const std::int8_t* inputs) {
  int bits;
  __builtin_memcpy(&bits, inputs, sizeof bits);
  return _mm256_set1_epi32(bits);
}

// The lower and the upper four bits of each byte.
inline __m256i lower_bits(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
inline __m256i upper_bits(__m256i bytes) { return lower_bits(_mm256_srli_epi16(bytes, 4)); }

// The products of one tile of outputs and kRows rows, from row `first` on.
template <class Products, std::size_t kRows, bool kEightBits>
inline void tile(const RoundedInput& input, std::size_t first, const std::uint8_t* weights,
                 __m256* sums) {
  constexpr std::size_t kVectorInputs = kEightBits ? kStepInputs : 2 * kStepInputs;
  const std::size_t width = input.groups * kRoundedInputs;
  const std::int8_t* values = input.values + first * width;
  const GroupScale* scales = input.scales + first * input.groups;
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) sums[r] = _mm256_setzero_ps();
  for (std::size_t g = 0; g < input.groups; ++g) {
    typename Products::Sums of_group[kRows];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kRoundedInputs / kVectorInputs; ++v) {
      const std::uint8_t* at = weights + kScaleBytes + v * kVector;
      _mm_prefetch(reinterpret_cast<const char*>(at) + kAhead, _MM_HINT_T0);
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      const std::int8_t* inputs = values + g * kRoundedInputs + v * kVectorInputs;
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        if constexpr (kEightBits) {
          Products::add_eight_bits(of_group[r], bytes, inputs + r * width);
        } else {
          Products::add_four_bits(of_group[r], bytes, inputs + r * width);
        }
      }
    }
    const __m256 scale = widened(weights);
    const __m256 minimum = widened(weights + kScaleBytes / 2);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const GroupScale& of_row = scales[r * input.groups + g];
      const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(of_row.scale));
      const __m256 total = _mm256_cvtepi32_ps(Products::total(of_group[r]));
      sums[r] = _mm256_fmadd_ps(factor, total, sums[r]);
      sums[r] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(of_row.sum), sums[r]);
    }
    weights += quantised_group_bytes(kEightBits);
  }
}

template <class Products, std::size_t kRows, bool kEightBits>
void write_rows(const QuantisedProducts& task, std::size_t first, std::size_t output,
                const std::uint8_t* weights) {
  __m256 sums[kRows];
  tile<Products, kRows, kEightBits>(task.input, first, weights, sums);
  const std::size_t count = task.outputs - output;
  for (std::size_t r = 0; r < kRows; ++r) {
    float* to = task.products + (first + r) * task.stride + output;
    if (count >= kTileOutputs) {
      _mm256_storeu_ps(to, sums[r]);
    } else {
      alignas(32) float all[kTileOutputs];
      _mm256_store_ps(all, sums[r]);
      __builtin_memcpy(to, all, count * sizeof(float));
    }
  }
}

// All products, for groups of at most sizeof...(kFewer) rows: as many as have sums in the
// registers.
template <class Products, bool kEightBits, std::size_t... kFewer>
void products(const QuantisedProducts& task, std::index_sequence<kFewer...>) {
  constexpr std::size_t kMaxRows = sizeof...(kFewer);
  constexpr decltype(&write_rows<Products, 1, kEightBits>) kWrite[] = {
      write_rows<Products, kFewer + 1, kEightBits>...};
  const std::size_t rows = task.input.rows;
  const std::size_t blocks = (rows + kMaxRows - 1) / kMaxRows;
  const std::size_t tile_bytes = task.input.groups * quantised_group_bytes(kEightBits);
  const std::uint8_t* weights = task.weights;
  for (std::size_t n = 0; n < task.outputs; n += kTileOutputs, weights += tile_bytes) {
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t first = rows * b / blocks;
      kWrite[rows * (b + 1) / blocks - first - 1](task, first, n, weights);
    }
  }
}

template <class Products>
void quantised_products(const QuantisedProducts& task) {
  constexpr std::make_index_sequence<Products::kMaxRows> kFewer;
  task.eight_bits ? products<Products, true>(task, kFewer)
                  : products<Products, false>(task, kFewer);
}

}  // namespace
}  // namespace tokentiming::native
