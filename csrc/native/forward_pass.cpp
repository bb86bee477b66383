#include "native/forward_pass.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "native/bfloat16.h"
#include "native/packed_rows.h"
#include "native/quantised.h"
#include "parallel.h"
#include "simd/dispatch.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

using Matrix = std::vector<float>;  // [rows, features]

// Calls f(row) for each row, on all threads if there are enough rows.
template <class F>
void over_rows(std::size_t rows, const F& f) {
  constexpr std::size_t kFew = 4;
  parallel_for(rows, kFew, f);
}

// Numbers::kRounded: projections of rounded weights and inputs, all else in float32.
struct RoundedNumbers {
  using Input = RoundedRows;
  using Weights = Quantised;

  static float result(float x) { return x; }
};

// Numbers::kOwn: the result of each operation is a bfloat16 number.
struct OwnNumbers {
  static float result(float x) { return widen(to_bfloat16(x)); }

  class Input {
   public:
    Input(const Kernels& kernels, const float* x, std::size_t rows, std::size_t in_features)
        : packed_(kernels, narrowed(x, rows, in_features).data(), rows, in_features) {}

    const PackedRows& packed() const { return packed_; }
    std::size_t rows() const { return packed_.rows(); }

   private:
    static std::vector<BFloat16> narrowed(const float* x, std::size_t rows, std::size_t features) {
      std::vector<BFloat16> narrow(rows * features);
      over_rows(rows, [&](std::size_t r) {
        for (std::size_t k = r * features; k < (r + 1) * features; ++k) {
          narrow[k] = to_bfloat16(x[k]);
        }
      });
      return narrow;
    }

    PackedRows packed_;
  };

  class Weights {
   public:
    Weights(const Kernels& kernels, const Projection& projection, std::size_t in_features,
            const char* /*name*/)
        : kernels_(kernels), projection_(projection), in_features_(in_features) {}

    std::size_t out_features() const { return projection_.out_features; }

    void multiply(const Input& input, std::size_t first, std::size_t last, float* out,
                  std::size_t stride) const {
      kernels_.dot_products({input.packed().data(), input.rows(), in_features_, projection_.weight,
                             first, last, out, stride});
      for (std::size_t r = 0; r < input.rows(); ++r) round_sums(first, last, out + r * stride);
    }

   private:
    void round_sums(std::size_t first, std::size_t last, float* sums) const {
      const BFloat16* bias = projection_.bias;
      if (bias == nullptr) {
        for (std::size_t n = first; n < last; ++n) sums[n] = result(sums[n]);
      } else {
        for (std::size_t n = first; n < last; ++n) sums[n] = result(sums[n] + widen(bias[n]));
      }
    }

    const Kernels& kernels_;
    Projection projection_;
    std::size_t in_features_;
  };
};

// Calls f(first, last) for blocks of outputs, on all threads.
template <class F>
void over_outputs(std::size_t outputs, const F& f) {
  parallel_blocks(outputs, kOutputBlock, kOutputBlock, f);
}

float maximum(const float* x, std::size_t count) {
  return simd::fastest_kernels().float_blocks.maximum(x, count);
}

// exp(x - shift) for count numbers, in place; none exceeds shift.
void exponentials(float* x, std::size_t count, float shift) {
  constexpr float kLog2E = 1.44269504f;
  simd::fastest_kernels().float_blocks.exponentials(x, count, shift, kLog2E, 1.0f, x);
}

// In 8 sums, which a processor adds at the same time.
double sum_of_squares(const float* x, std::size_t count) {
  constexpr std::size_t kSums = 8;
  double sums[kSums] = {};
  std::size_t k = 0;
  for (; k + kSums <= count; k += kSums) {
    for (std::size_t i = 0; i < kSums; ++i) sums[i] += double{x[k + i]} * x[k + i];
  }
  for (; k < count; ++k) sums[0] += double{x[k]} * x[k];
  return std::accumulate(sums, sums + kSums, 0.0);
}

// Applies a transformer's layers. After each operation that torch computes on its own,
// Arithmetic::result rounds.
template <class Arithmetic>
class Layers final : public ForwardPass {
  using Input = typename Arithmetic::Input;
  using Weights = typename Arithmetic::Weights;

  static float result(float x) { return Arithmetic::result(x); }

 public:
  Layers(const TransformerWeights& weights, const Kernels& kernels)
      : kernels_(kernels), weights_(weights), head_(kernels, weights.head, weights.hidden, "head") {
    for (const TransformerLayer& layer : weights.layers) {
      layers_.emplace_back(kernels, layer, weights.hidden, weights.heads * weights.head_size);
    }
  }

  void run(std::span<const Row> rows, std::span<const std::int64_t> tokens,
           std::span<const std::int64_t> wanted, std::size_t first,
           const Rows<float>& logits) override {
    Matrix x = embedded(tokens);
    const Angles angles = angles_of(rows);
    for (std::size_t l = 0; l < layers_.size(); ++l) pass(l, rows, angles, x);
    write_logits(x, wanted, first, logits);
  }

 private:
  struct Layer {
    Layer(const Kernels& kernels, const TransformerLayer& from, std::size_t hidden,
          std::size_t attended)
        : query(kernels, from.query, hidden, "query"),
          key(kernels, from.key, hidden, "key"),
          value(kernels, from.value, hidden, "value"),
          output(kernels, from.output, attended, "output"),
          gate(kernels, from.gate, hidden, "gate"),
          up(kernels, from.up, hidden, "up"),
          down(kernels, from.down, from.gate.out_features, "down") {}

    Weights query, key, value, output, gate, up, down;
  };

  struct Angles {
    Matrix cosines, sines;  // [rows, head_size / 2]
  };

  Matrix embedded(std::span<const std::int64_t> ids) const {
    Matrix x;
    x.reserve(ids.size() * weights_.hidden);
    for (const std::int64_t id : ids) {
      const BFloat16* row = weights_.embedding + static_cast<std::size_t>(id) * weights_.hidden;
      for (std::size_t k = 0; k < weights_.hidden; ++k) x.push_back(widen(row[k]));
    }
    return x;
  }

  Angles angles_of(std::span<const Row> rows) const {
    Angles angles;
    for (const Row& row : rows) {
      const auto position = static_cast<float>(row.sequence->position(row.node));
      for (const float frequency : weights_.rotation) {
        const float angle = position * frequency;
        angles.cosines.push_back(result(std::cos(angle) * weights_.rotation_scale));
        angles.sines.push_back(result(std::sin(angle) * weights_.rotation_scale));
      }
    }
    return angles;
  }

  Input input(const Matrix& x, std::size_t features) const {
    return {kernels_, x.data(), x.size() / features, features};
  }

  // x / rms(x) * weight, row by row.
  Input normalised(const Matrix& x, const BFloat16* weight) const {
    const std::size_t features = weights_.hidden;
    Matrix normal(x.size());
    over_rows(x.size() / features, [&](std::size_t r) {
      const float* from = x.data() + r * features;
      float* to = normal.data() + r * features;
      const double mean = sum_of_squares(from, features) / static_cast<double>(features);
      const auto scale = static_cast<float>(1.0 / std::sqrt(mean + weights_.norm_epsilon));
      for (std::size_t k = 0; k < features; ++k) {
        to[k] = result(result(from[k] * scale) * widen(weight[k]));
      }
    });
    return input(normal, features);
  }

  Matrix projected(const Input& rows, const Weights& projection) const {
    const std::size_t outputs = projection.out_features();
    Matrix out(rows.rows() * outputs);
    over_outputs(outputs, [&](std::size_t first, std::size_t last) {
      projection.multiply(rows, first, last, out.data(), outputs);
    });
    return out;
  }

  void add(const Matrix& x, Matrix& to) const {
    const std::size_t features = weights_.hidden;
    over_rows(x.size() / features, [&](std::size_t r) {
      for (std::size_t k = r * features; k < (r + 1) * features; ++k) to[k] = result(to[k] + x[k]);
    });
  }

  // Applies one layer to all rows of x.
  void pass(std::size_t index, std::span<const Row> rows, const Angles& angles, Matrix& x) {
    const Layer& layer = layers_[index];
    const TransformerLayer& from = weights_.layers[index];
    const Input attended = attention(index, rows, normalised(x, from.attention_norm), angles);
    add(projected(attended, layer.output), x);
    add(projected(gated(layer, normalised(x, from.mlp_norm)), layer.down), x);
  }

  Input attention(std::size_t index, std::span<const Row> rows, const Input& from,
                  const Angles& angles) {
    const Layer& layer = layers_[index];
    const std::size_t size = weights_.head_size;
    Matrix query = projected(from, layer.query);
    Matrix key = projected(from, layer.key);
    const Matrix value = projected(from, layer.value);
    rotate(angles, rows.size(), weights_.heads, query);
    rotate(angles, rows.size(), weights_.key_heads, key);
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    for (float& q : query) q *= scale;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      rows[r].sequence->write(index, rows[r].node, key.data() + r * layer.key.out_features(),
                              value.data() + r * layer.value.out_features());
    }
    Matrix out(query.size());
    const std::size_t group = weights_.heads / weights_.key_heads * size;
    // All rows of one key head before the next one, so that keys and values stay in the cache.
    parallel_for(rows.size() * weights_.key_heads, 1, [&](std::size_t task) {
      const std::size_t row = task % rows.size();
      const std::size_t key_head = task / rows.size();
      const std::size_t at = (row * weights_.key_heads + key_head) * group;
      attend(index, key_head, rows[row], query.data() + at, out.data() + at);
    });
    return input(out, weights_.heads * size);
  }

  // Attention of the queries that share a key head over the row's committed tokens, its ancestors
  // and itself.
  void attend(std::size_t layer, std::size_t key_head, const Row& row, const float* queries,
              float* out) const {
    const Sequence& sequence = *row.sequence;
    const std::size_t heads = weights_.heads / weights_.key_heads;
    const std::size_t size = weights_.head_size;
    const std::size_t columns = sequence.columns_to(row.node);
    const std::size_t stride = key_blocks(columns) * kKeyBlock;
    std::vector<float> weights(heads * stride);
    kernels_.attention_scores(
        {queries, heads, sequence.keys(layer, key_head), columns, size, weights.data(), stride});
    for (std::size_t h = 0; h < heads; ++h) {
      float* of_head = weights.data() + h * stride;
      sequence.mask(row.node, of_head);
      exponentials(of_head, columns, maximum(of_head, columns));
    }
    // In order, so that masked columns, which are zero, do not change the bits of a total.
    std::vector<float> totals(heads);
    for (std::size_t t = 0; t < columns; ++t) {
      for (std::size_t h = 0; h < heads; ++h) totals[h] += weights[h * stride + t];
    }
    kernels_.attention_output(
        {weights.data(), stride, heads, sequence.values(layer, key_head), columns, size, out});
    for (std::size_t h = 0; h < heads; ++h) {
      for (std::size_t k = 0; k < size; ++k)
        out[h * size + k] = result(out[h * size + k] / totals[h]);
    }
  }

  // Rotates the pair (k, k + head_size / 2) of every head by the angle of its row.
  void rotate(const Angles& angles, std::size_t rows, std::size_t heads, Matrix& x) const {
    const std::size_t half = weights_.head_size / 2;
    over_rows(rows, [&](std::size_t r) {
      const float* cosines = angles.cosines.data() + r * half;
      const float* sines = angles.sines.data() + r * half;
      for (std::size_t h = 0; h < heads; ++h) {
        float* at = x.data() + (r * heads + h) * 2 * half;
        for (std::size_t k = 0; k < half; ++k) {
          const float first = at[k], second = at[k + half];
          at[k] = result(result(first * cosines[k]) - result(second * sines[k]));
          at[k + half] = result(result(second * cosines[k]) + result(first * sines[k]));
        }
      }
    });
  }

  // gate = silu(gate) * up for count numbers, at most kOutputBlock.
  static void gate_block(float* gate, const float* up, std::size_t count) {
    float powers[kOutputBlock];  // of -|gate|, which cannot overflow
    for (std::size_t k = 0; k < count; ++k) powers[k] = -std::abs(gate[k]);
    exponentials(powers, count, 0.0f);
    for (std::size_t k = 0; k < count; ++k) {
      const float numerator = gate[k] < 0.0f ? powers[k] : 1.0f;
      gate[k] = result(result(gate[k] * (numerator / (1.0f + powers[k]))) * up[k]);
    }
  }

  Input gated(const Layer& layer, const Input& from) const {
    const std::size_t features = layer.gate.out_features();
    Matrix gate(from.rows() * features);
    Matrix up(from.rows() * features);
    over_outputs(features, [&](std::size_t first, std::size_t last) {
      layer.gate.multiply(from, first, last, gate.data(), features);
      layer.up.multiply(from, first, last, up.data(), features);
      for (std::size_t r = 0; r < from.rows(); ++r) {
        const std::size_t at = r * features + first;
        gate_block(gate.data() + at, up.data() + at, last - first);
      }
    });
    return input(gate, features);
  }

  void write_logits(const Matrix& x, std::span<const std::int64_t> wanted, std::size_t first,
                    const Rows<float>& logits) const {
    if (wanted.empty()) return;
    const std::size_t hidden = weights_.hidden;
    Matrix picked;
    picked.reserve(wanted.size() * hidden);
    for (const std::int64_t row : wanted) {
      const float* at = x.data() + (static_cast<std::size_t>(row) - first) * hidden;
      picked.insert(picked.end(), at, at + hidden);
    }
    const Input from = normalised(picked, weights_.final_norm);
    over_outputs(weights_.vocabulary, [&](std::size_t begin, std::size_t end) {
      head_.multiply(from, begin, end, logits.data, static_cast<std::size_t>(logits.stride));
    });
  }

  const Kernels& kernels_;
  const TransformerWeights& weights_;
  Weights head_;
  std::vector<Layer> layers_;
};

}  // namespace

std::unique_ptr<ForwardPass> forward_pass(const TransformerWeights& weights, Numbers numbers,
                                          const Kernels& kernels) {
  if (numbers == Numbers::kOwn) return std::make_unique<Layers<OwnNumbers>>(weights, kernels);
  return std::make_unique<Layers<RoundedNumbers>>(weights, kernels);
}

}  // namespace tokentiming::native
