// Kernels for one instruction set, and the choice among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "native/linear.h"

namespace tokentiming::native {

// Maximum number of outputs of one call of a dot-product kernel; a multiple of most tile widths.
inline constexpr std::size_t kOutputBlock = 48;

// Maximum number of entries of a row of 8-bit weights. AMX adds up to 127 * 128 for each of them in
// 32 bits.
inline constexpr std::size_t kMostInputs = 131072;

// products[r * stride + n] = sum over k of input[r, k] * weight[n, k] for n in [first, last), where
// last - first <= kOutputBlock.
//
// 8-bit weights are interleaved: each group of Kernels::group weights of a row holds its even
// entries, then its odd entries.
template <class Weight>
struct DotProducts {
  const float* packed;  // the input rows, packed by the same kernels
  std::size_t rows;
  std::size_t in_features;
  const Weight* weight;  // [out_features, in_features]
  std::size_t first, last;
  float* products;
  std::size_t stride;
};

// Keys are stored in blocks of so many tokens: [blocks, head_size, kKeyBlock]. The scores of the
// tokens of a block are then sums of whole vectors.
inline constexpr std::size_t kKeyBlock = 16;

// The number of blocks of so many keys. It has internal linkage, as files for several instruction
// sets call it.
static constexpr std::size_t key_blocks(std::size_t columns) {
  return (columns + kKeyBlock - 1) / kKeyBlock;
}

// scores[h * stride + t] = dot product of query h and key t, for t < columns. Scores are written
// for whole blocks. Vectors have head_size entries, a multiple of 8.
struct AttentionScores {
  const float* queries;  // [heads, head_size]
  std::size_t heads;     // query heads that share the keys
  const float* keys;     // in blocks
  std::size_t columns;
  std::size_t head_size;
  float* scores;
  std::size_t stride;
};

// out[h] = sum over t < columns of weights[h * stride + t] * values[t].
struct AttentionOutput {
  const float* weights;
  std::size_t stride;
  std::size_t heads;
  const float* values;  // [columns, head_size]
  std::size_t columns;
  std::size_t head_size;
  float* out;  // [heads, head_size]
};

// The kernels of one instruction set. Their files are compiled for newer processors than the rest
// of the library. They must therefore not instantiate an inline function that another file uses as
// well (containers, threads): the linker keeps one copy of it, possibly the one that only newer
// processors can run.
struct Kernels {
  std::size_t group;  // of interleaved 8-bit weights; 2 leaves them in order
  // Converts contiguous rows to what the dot products read. There is room for in_features + 1
  // floats for each row.
  void (*pack_bfloat16)(const BFloat16* input, std::size_t rows, std::size_t in_features,
                        float* packed);
  void (*pack_float)(const float* input, std::size_t rows, std::size_t in_features, float* packed);
  void (*dot_products_bfloat16)(const DotProducts<BFloat16>& task);
  void (*dot_products_int8)(const DotProducts<std::int8_t>& task);
  // The two steps of attention, with a softmax of the scores between them.
  void (*attention_scores)(const AttentionScores& task);
  void (*attention_output)(const AttentionOutput& task);
};

// An implementation that this processor can run.
struct Variant {
  const char* name;
  // Null for the portable variant, which has only `linear`; Transformer refuses it.
  const Kernels* kernels;
};

// All variants that this processor can run, the fastest first. The last one is the portable one,
// which every processor can run.
std::span<const Variant> variants();

// `linear` as the given variant computes it.
void linear(const Linear& layer, const Variant& variant);

// Defined where the compiler targets x86-64; callable where the processor has AVX2 and FMA, or
// AVX-512F.
void pack_bfloat16_avx2(const BFloat16* input, std::size_t rows, std::size_t in_features,
                        float* packed);
void pack_float_avx2(const float* input, std::size_t rows, std::size_t in_features, float* packed);
void dot_products_bfloat16_avx2(const DotProducts<BFloat16>& task);
void dot_products_int8_avx2(const DotProducts<std::int8_t>& task);
void attention_scores_avx2(const AttentionScores& task);
void attention_output_avx2(const AttentionOutput& task);
void pack_bfloat16_avx512(const BFloat16* input, std::size_t rows, std::size_t in_features,
                          float* packed);
void pack_float_avx512(const float* input, std::size_t rows, std::size_t in_features,
                       float* packed);
void dot_products_bfloat16_avx512(const DotProducts<BFloat16>& task);
void dot_products_int8_avx512(const DotProducts<std::int8_t>& task);
void attention_scores_avx512(const AttentionScores& task);
void attention_output_avx512(const AttentionOutput& task);
// Callable where the processor has AVX-512 BF16 too. The packed rows are bfloat16. Its instructions
// and those of AMX take subnormal numbers for 0.
void pack_bfloat16_avx512bf16(const BFloat16* input, std::size_t rows, std::size_t in_features,
                              float* packed);
void dot_products_bfloat16_avx512bf16(const DotProducts<BFloat16>& task);
// Defined on Linux; callable where the processor has AVX-512F, and AMX for bfloat16 and int8, and
// Linux permits its use. For 8-bit weights each input row is rounded to 2080768ths of its largest
// magnitude, or to 0 if that is below 2^-99.
void pack_bfloat16_amx(const BFloat16* input, std::size_t rows, std::size_t in_features,
                       float* packed);
void pack_float_amx(const float* input, std::size_t rows, std::size_t in_features, float* packed);
void dot_products_bfloat16_amx(const DotProducts<BFloat16>& task);
void dot_products_int8_amx(const DotProducts<std::int8_t>& task);

}  // namespace tokentiming::native
