// Kernels for one instruction set, and the choice among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "native/linear.h"

namespace tokentiming::native {

// Outputs that a thread computes together; a multiple of most tile widths.
inline constexpr std::size_t kOutputBlock = 48;

// products[r * stride + n] = sum over k of input[r, k] * weight[n, k] for n in [first, last), which
// are at most as many as Kernels::outputs.
struct DotProducts {
  const float* packed;  // the input rows, packed by the same kernels
  std::size_t rows;
  std::size_t in_features;
  const BFloat16* weight;  // [out_features, in_features]
  std::size_t first, last;
  float* products;
  std::size_t stride;
};

// Consecutive inputs that share a scale, of weights and of inputs.
inline constexpr std::size_t kRoundedInputs = 32;

struct GroupScale {
  float scale;
  float sum;  // of the group's values, times the scale
};

// Input rows rounded to 8 bits. The last group of a row is filled up with zeros.
struct RoundedInput {
  const std::int8_t* values;  // [rows, groups * kRoundedInputs]
  const GroupScale* scales;   // [rows, groups]
  std::size_t rows;
  std::size_t groups;
};

// Outputs of a tile of quantised weights. A tile holds its groups one after another. A group holds
// the scales of the outputs, then their minimums, in bfloat16, and then the values in steps of
// kStepInputs inputs of each output. With 4 bits, a vector of bytes holds two steps, the first one
// in the lower bits. With 8 bits it holds one.
inline constexpr std::size_t kTileOutputs = 8;
inline constexpr std::size_t kStepInputs = 4;
static_assert(kOutputBlock % kTileOutputs == 0);  // blocks of outputs start with whole tiles
inline constexpr std::size_t kScaleBytes = 2 * kTileOutputs * sizeof(BFloat16);
static constexpr std::size_t quantised_group_bytes(bool eight_bits) {
  return kScaleBytes + kTileOutputs * kRoundedInputs / (eight_bits ? 1 : 2);
}

// products[r * stride + n] for n < outputs. The absent outputs of the last tile are not written.
struct QuantisedProducts {
  RoundedInput input;
  const std::uint8_t* weights;  // tiles
  bool eight_bits;
  std::size_t outputs;
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
  std::size_t outputs;  // of a call of dot_products, at most
  // Converts contiguous rows to what the dot products read. There is room for in_features + 1
  // floats for each row.
  void (*pack)(const BFloat16* input, std::size_t rows, std::size_t in_features, float* packed);
  void (*dot_products)(const DotProducts& task);
  // Rounds a row of floats to 8 bits.
  void (*round_row)(const float* input, std::size_t in_features, std::int8_t* values,
                    GroupScale* scales);
  void (*quantised_products)(const QuantisedProducts& task);
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
void pack_avx2(const BFloat16* input, std::size_t rows, std::size_t in_features, float* packed);
void dot_products_avx2(const DotProducts& task);
void round_row_avx2(const float* input, std::size_t in_features, std::int8_t* values,
                    GroupScale* scales);
void quantised_products_avx2(const QuantisedProducts& task);
void attention_scores_avx2(const AttentionScores& task);
void attention_output_avx2(const AttentionOutput& task);
void pack_avx512(const BFloat16* input, std::size_t rows, std::size_t in_features, float* packed);
void dot_products_avx512(const DotProducts& task);
void attention_scores_avx512(const AttentionScores& task);
void attention_output_avx512(const AttentionOutput& task);
// Callable where the processor has AVX-512 VL and VNNI too.
void quantised_products_avx512vnni(const QuantisedProducts& task);
// Callable where the processor has AVX-512 BF16 too. The packed rows are bfloat16. Its instructions
// and those of AMX take subnormal numbers for 0.
void pack_avx512bf16(const BFloat16* input, std::size_t rows, std::size_t in_features,
                     float* packed);
void dot_products_avx512bf16(const DotProducts& task);
// Defined on Linux; callable where the processor has AVX-512F and AMX for bfloat16, and Linux
// permits its use.
void pack_amx(const BFloat16* input, std::size_t rows, std::size_t in_features, float* packed);
void dot_products_amx(const DotProducts& task);

}  // namespace tokentiming::native
