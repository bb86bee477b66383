#include "native/transformer.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "native/head_cache.h"
#include "native/kernels.h"
#include "native/packed_rows.h"
#include "native/quantised.h"
#include "parallel.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

// Most tokens in one pass: enough for the products to run at full speed, few enough to keep the
// activations small.
constexpr std::size_t kMaxRows = 192;

[[noreturn]] void refuse(const std::string& message) {
  throw std::invalid_argument("transformer: " + message);
}

using Matrix = std::vector<float>;  // [rows, features]

// x / rms(x) * weight, row by row.
Matrix normalised(const Matrix& x, std::size_t features, const BFloat16* weight, float epsilon) {
  Matrix result(x.size());
  for (std::size_t begin = 0; begin < x.size(); begin += features) {
    double squares = 0.0;
    for (std::size_t k = 0; k < features; ++k) squares += double{x[begin + k]} * x[begin + k];
    const auto scale =
        static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(features) + epsilon));
    for (std::size_t k = 0; k < features; ++k) {
      result[begin + k] = x[begin + k] * scale * widen(weight[k]);
    }
  }
  return result;
}

// Calls f(first, last) for blocks of outputs, on all threads.
template <class F>
void over_outputs(std::size_t outputs, const F& f) {
  parallel_for((outputs + kOutputBlock - 1) / kOutputBlock, 1, [&](std::size_t block) {
    const std::size_t first = block * kOutputBlock;
    f(first, std::min(first + kOutputBlock, outputs));
  });
}

void add(const Matrix& x, Matrix& to) {
  for (std::size_t k = 0; k < x.size(); ++k) to[k] += x[k];
}

}  // namespace

class Transformer::State {
 public:
  State(TransformerWeights weights, const Variant& variant)
      : kernels_(required(variant)),
        weights_(checked(std::move(weights))),
        head_(weights_.head, weights_.hidden, "head") {
    for (const TransformerLayer& layer : weights_.layers) {
      layers_.emplace_back(layer, weights_.hidden, weights_.heads * weights_.head_size);
      keys_.emplace_back(weights_.key_heads, weights_.head_size);
      values_.emplace_back(weights_.key_heads, weights_.head_size);
    }
  }

  std::size_t length() const { return length_; }

  void truncate(std::size_t length) {
    if (length > length_) {
      refuse("length is " + std::to_string(length) + ", more than the " + std::to_string(length_) +
             " tokens read");
    }
    for (HeadCache& cache : keys_) cache.truncate(length);
    for (HeadCache& cache : values_) cache.truncate(length);
    length_ = length;
  }

  void read(std::span<const std::int64_t> ids, const Rows<float>& logits) {
    check_call(ids, logits);
    for (std::size_t begin = 0; begin < ids.size(); begin += kMaxRows) {
      const std::size_t count = std::min(kMaxRows, ids.size() - begin);
      Matrix x = embedded(ids.subspan(begin, count));
      const Angles angles = angles_from(length_, count);
      for (std::size_t l = 0; l < layers_.size(); ++l) pass(l, angles, x);
      length_ += count;
      write_logits(x, ids.size() - begin - count, logits);
    }
  }

 private:
  struct Layer {
    Layer(const TransformerLayer& from, std::size_t hidden, std::size_t attended)
        : query(from.query, hidden, "query"),
          key(from.key, hidden, "key"),
          value(from.value, hidden, "value"),
          output(from.output, attended, "output"),
          gate(from.gate, hidden, "gate"),
          up(from.up, hidden, "up"),
          down(from.down, from.gate.out_features, "down") {}

    Quantised query, key, value, output, gate, up, down;
  };

  struct Angles {
    Matrix cosines, sines;  // [rows, head_size / 2]
  };

  static const Kernels& required(const Variant& variant) {
    if (variant.kernels == nullptr) {
      refuse("needs AVX2 and FMA on x86-64, but got the " + std::string(variant.name) +
             " variant; run the model with torch on this processor");
    }
    return *variant.kernels;
  }

  static TransformerWeights checked(TransformerWeights w) {
    if (w.hidden == 0) refuse("embedding must have at least one column");
    if (w.head_size == 0 || w.head_size % 8 != 0) refuse("head_size must be a multiple of 8");
    if (w.heads == 0 || w.key_heads == 0 || w.heads % w.key_heads != 0) {
      refuse("heads must be a multiple of key_heads");
    }
    if (w.rotation.size() != w.head_size / 2) refuse("rotation must have head_size / 2 entries");
    if (w.head.out_features != w.vocabulary) refuse("head must have one output for each token");
    const auto require = [](const Projection& projection, std::size_t expected, const char* name) {
      if (projection.out_features != expected) refuse(std::string(name) + " has a wrong size");
    };
    for (const TransformerLayer& layer : w.layers) {
      require(layer.query, w.heads * w.head_size, "query");
      require(layer.key, w.key_heads * w.head_size, "key");
      require(layer.value, w.key_heads * w.head_size, "value");
      require(layer.output, w.hidden, "output");
      if (layer.gate.out_features == 0) refuse("gate must have at least one output");
      require(layer.up, layer.gate.out_features, "up");
      require(layer.down, w.hidden, "down");
    }
    return w;
  }

  void check_call(std::span<const std::int64_t> ids, const Rows<float>& logits) const {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= 0 && static_cast<std::size_t>(ids[i]) < weights_.vocabulary) continue;
      refuse("ids[" + std::to_string(i) + "] is " + std::to_string(ids[i]) + ", outside 0.." +
             std::to_string(weights_.vocabulary - 1));
    }
    if (logits.rows > ids.size()) refuse("logits has more rows than there are ids");
    if (logits.columns != weights_.vocabulary) refuse("logits must have one column for each token");
  }

  Matrix embedded(std::span<const std::int64_t> ids) const {
    Matrix x;
    x.reserve(ids.size() * weights_.hidden);
    for (const std::int64_t id : ids) {
      const BFloat16* row = weights_.embedding + static_cast<std::size_t>(id) * weights_.hidden;
      for (std::size_t k = 0; k < weights_.hidden; ++k) x.push_back(widen(row[k]));
    }
    return x;
  }

  Angles angles_from(std::size_t position, std::size_t count) const {
    Angles angles;
    for (std::size_t r = 0; r < count; ++r) {
      for (const float frequency : weights_.rotation) {
        const float angle = static_cast<float>(position + r) * frequency;
        angles.cosines.push_back(std::cos(angle) * weights_.rotation_scale);
        angles.sines.push_back(std::sin(angle) * weights_.rotation_scale);
      }
    }
    return angles;
  }

  PackedRows packed(const Matrix& x, std::size_t features) const {
    return {kernels_, x.data(), x.size() / features, features};
  }

  Matrix projected(const PackedRows& input, const Quantised& projection) const {
    const std::size_t outputs = projection.out_features();
    Matrix out(input.rows() * outputs);
    over_outputs(outputs, [&](std::size_t first, std::size_t last) {
      projection.multiply(kernels_, input, first, last, out.data(), outputs);
    });
    return out;
  }

  // Applies one layer to all rows of x.
  void pass(std::size_t index, const Angles& angles, Matrix& x) {
    const Layer& layer = layers_[index];
    const std::size_t hidden = weights_.hidden;
    const auto norm = [&](const BFloat16* weight) {
      return packed(normalised(x, hidden, weight, weights_.norm_epsilon), hidden);
    };
    const BFloat16* attention_norm = weights_.layers[index].attention_norm;
    add(projected(attention(index, norm(attention_norm), angles), layer.output), x);
    add(projected(gated(layer, norm(weights_.layers[index].mlp_norm)), layer.down), x);
  }

  PackedRows attention(std::size_t index, const PackedRows& input, const Angles& angles) {
    const Layer& layer = layers_[index];
    const std::size_t rows = input.rows();
    const std::size_t size = weights_.head_size;
    Matrix query = projected(input, layer.query);
    Matrix key = projected(input, layer.key);
    const Matrix value = projected(input, layer.value);
    rotate(angles, rows, weights_.heads, query);
    rotate(angles, rows, weights_.key_heads, key);
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    for (float& q : query) q *= scale;
    for (std::size_t r = 0; r < rows; ++r) {
      keys_[index].append(key.data() + r * layer.key.out_features());
      values_[index].append(value.data() + r * layer.value.out_features());
    }
    Matrix out(query.size());
    const std::size_t group = weights_.heads / weights_.key_heads;
    // All rows of one head before the next head, so that its keys and values stay in the cache.
    parallel_for(rows * weights_.heads, 1, [&](std::size_t task) {
      const std::size_t row = task % rows;
      const std::size_t head = task / rows;
      const std::size_t at = (row * weights_.heads + head) * size;
      attend(query.data() + at, keys_[index].head(head / group), values_[index].head(head / group),
             length_ + row + 1, out.data() + at);
    });
    return packed(out, weights_.heads * size);
  }

  // Attention of one query over the first `length` tokens.
  void attend(const float* query, const float* keys, const float* values, std::size_t length,
              float* out) const {
    std::vector<float> weights(length);
    kernels_.attention_scores(query, keys, length, weights_.head_size, weights.data());
    const float largest = *std::max_element(weights.begin(), weights.end());
    float total = 0.0f;
    for (float& weight : weights) {
      weight = std::exp(weight - largest);
      total += weight;
    }
    for (float& weight : weights) weight /= total;
    kernels_.attention_output(weights.data(), values, length, weights_.head_size, out);
  }

  // Rotates the pair (k, k + head_size / 2) of every head by the angle of its row.
  void rotate(const Angles& angles, std::size_t rows, std::size_t heads, Matrix& x) const {
    const std::size_t half = weights_.head_size / 2;
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t h = 0; h < heads; ++h) {
        float* at = x.data() + (r * heads + h) * 2 * half;
        for (std::size_t k = 0; k < half; ++k) {
          const float cosine = angles.cosines[r * half + k];
          const float sine = angles.sines[r * half + k];
          const float first = at[k];
          const float second = at[k + half];
          at[k] = first * cosine - second * sine;
          at[k + half] = second * cosine + first * sine;
        }
      }
    }
  }

  PackedRows gated(const Layer& layer, const PackedRows& input) const {
    const std::size_t features = layer.gate.out_features();
    Matrix gate(input.rows() * features);
    Matrix up(input.rows() * features);
    over_outputs(features, [&](std::size_t first, std::size_t last) {
      layer.gate.multiply(kernels_, input, first, last, gate.data(), features);
      layer.up.multiply(kernels_, input, first, last, up.data(), features);
      for (std::size_t r = 0; r < input.rows(); ++r) {
        for (std::size_t n = first; n < last; ++n) {
          float& g = gate[r * features + n];
          g = g / (1.0f + std::exp(-g)) * up[r * features + n];
        }
      }
    });
    return packed(gate, features);
  }

  // Writes the logits of those rows of x that were asked for; `remaining` ids are still to be read.
  void write_logits(const Matrix& x, std::size_t remaining, const Rows<float>& logits) const {
    const std::size_t hidden = weights_.hidden;
    const std::size_t rows = x.size() / hidden;
    if (logits.rows <= remaining) return;
    const std::size_t wanted = std::min(rows, logits.rows - remaining);
    const std::size_t first_row = logits.rows - remaining - wanted;
    const Matrix last(x.end() - static_cast<std::ptrdiff_t>(wanted * hidden), x.end());
    const PackedRows input =
        packed(normalised(last, hidden, weights_.final_norm, weights_.norm_epsilon), hidden);
    over_outputs(weights_.vocabulary, [&](std::size_t first, std::size_t end) {
      head_.multiply(kernels_, input, first, end, logits[first_row],
                     static_cast<std::size_t>(logits.stride));
    });
  }

  const Kernels& kernels_;
  TransformerWeights weights_;
  Quantised head_;
  std::vector<Layer> layers_;
  std::vector<HeadCache> keys_, values_;
  std::size_t length_ = 0;
};

Transformer::Transformer(TransformerWeights weights)
    : Transformer(std::move(weights), variants().front()) {}
Transformer::Transformer(TransformerWeights weights, const Variant& variant)
    : state_(std::make_unique<State>(std::move(weights), variant)) {}
Transformer::~Transformer() = default;

std::size_t Transformer::length() const { return state_->length(); }
void Transformer::truncate(std::size_t length) { state_->truncate(length); }
void Transformer::read(std::span<const std::int64_t> ids, const Rows<float>& logits) {
  state_->read(ids, logits);
}

}  // namespace tokentiming::native
