#include "native/transformer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "native/kernels.h"
#include "native/quantised.h"
#include "native/sequence.h"
#include "parallel.h"
#include "simd/dispatch.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

// Maximum number of rows in one pass: enough for the products to run at full speed, few enough to
// keep the activations small.
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
  parallel_ranges(outputs, kOutputBlock, [&](std::size_t begin, std::size_t end) {
    for (std::size_t first = begin; first < end; first += kOutputBlock) {
      f(first, std::min(first + kOutputBlock, end));
    }
  });
}

float maximum(const float* x, std::size_t count) {
  return simd::fastest_kernels().float_blocks.maximum(x, count);
}

// exp(x - shift) for count numbers, in place; none exceeds shift.
void exponentials(float* x, std::size_t count, float shift) {
  constexpr float kLog2E = 1.44269504f;
  simd::fastest_kernels().float_blocks.exponentials(x, count, shift, kLog2E, 1.0f, x);
}

// gate = silu(gate) * up for count numbers, at most kOutputBlock.
void gate_block(float* gate, const float* up, std::size_t count) {
  float powers[kOutputBlock];  // of -|gate|, which cannot overflow
  for (std::size_t k = 0; k < count; ++k) powers[k] = -std::abs(gate[k]);
  exponentials(powers, count, 0.0f);
  for (std::size_t k = 0; k < count; ++k) {
    const float numerator = gate[k] < 0.0f ? powers[k] : 1.0f;
    gate[k] *= numerator / (1.0f + powers[k]) * up[k];
  }
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
        head_(kernels_, weights_.head, weights_.hidden, "head") {
    for (const TransformerLayer& layer : weights_.layers) {
      layers_.emplace_back(kernels_, layer, weights_.hidden, weights_.heads * weights_.head_size);
    }
  }

  std::size_t sequences() const { return sequences_.size(); }

  Sequence& sequence(std::size_t index) {
    if (index >= sequences_.size()) {
      refuse("sequence is " + std::to_string(index) + ", but there are " +
             std::to_string(sequences_.size()));
    }
    return sequences_[index];
  }

  void read(const ForestRows& rows, const Rows<float>& logits,
            std::span<const std::int64_t> wanted) {
    check_rows(rows);
    check_wanted(rows.tokens.size(), logits, wanted);
    const std::vector<Row> all = appended(rows);
    std::size_t written = 0;
    for (std::size_t begin = 0; begin < all.size(); begin += kMaxRows) {
      const std::size_t count = std::min(kMaxRows, all.size() - begin);
      const std::span<const Row> now(all.data() + begin, count);
      Matrix x = embedded(rows.tokens.subspan(begin, count));
      const Angles angles = angles_of(now);
      for (std::size_t l = 0; l < layers_.size(); ++l) pass(l, now, angles, x);
      const auto later = std::ranges::lower_bound(wanted, static_cast<std::int64_t>(begin + count));
      const auto end = static_cast<std::size_t>(later - wanted.begin());
      write_logits(x, begin, wanted.subspan(written, end - written), logits, written);
      written = end;
    }
  }

  void keep(std::size_t index, std::span<const std::int64_t> nodes) {
    Sequence& found = sequence(index);
    check_path(found, nodes);
    found.keep(nodes);
  }

  void commit(std::size_t index, std::size_t tokens, std::span<const float> keys,
              std::span<const float> values) {
    Sequence& found = sequence(index);
    const std::size_t width = weights_.key_heads * weights_.head_size;
    const std::size_t size = layers_.size() * tokens * width;
    if (keys.size() != size || values.size() != size) {
      refuse("keys and values must have shape [layers, tokens, heads * size], " +
             std::to_string(layers_.size()) + " layers and " + std::to_string(width) + " columns");
    }
    if (found.pending() != 0) refuse("commit needs a sequence without pending nodes; call keep");
    std::vector<std::int32_t> parents(tokens);
    std::iota(parents.begin(), parents.end(), -1);
    std::vector<std::int64_t> path(tokens);
    std::iota(path.begin(), path.end(), 0);
    found.append(parents);
    for (std::size_t at = 0; at < layers_.size() * tokens; ++at) {
      found.write(at / tokens, at % tokens, keys.data() + at * width, values.data() + at * width);
    }
    found.keep(path);
  }

  void truncate(std::size_t index, std::size_t length) {
    Sequence& found = sequence(index);
    if (length > found.length()) {
      refuse("length is " + std::to_string(length) + ", more than the " +
             std::to_string(found.length()) + " tokens committed");
    }
    found.truncate(length);
  }

  void drop(std::size_t index) {
    std::swap(sequence(index), sequences_.back());
    sequences_.pop_back();
  }

  void clear() { sequences_.clear(); }

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

    Quantised query, key, value, output, gate, up, down;
  };

  struct Angles {
    Matrix cosines, sines;  // [rows, head_size / 2]
  };

  // A pending node that is being read.
  struct Row {
    Sequence* sequence;
    std::size_t node;
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

  void check_rows(const ForestRows& rows) const {
    const auto [tokens, parents, offsets] = rows;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] >= 0 && static_cast<std::size_t>(tokens[i]) < weights_.vocabulary) continue;
      refuse("tokens[" + std::to_string(i) + "] is " + std::to_string(tokens[i]) + ", outside 0.." +
             std::to_string(weights_.vocabulary - 1));
    }
    if (parents.size() != tokens.size()) {
      refuse("parents has " + std::to_string(parents.size()) + " entries and tokens " +
             std::to_string(tokens.size()) + "; give one parent for each token");
    }
    const auto count = static_cast<std::int64_t>(tokens.size());
    if (offsets.empty() || offsets.front() != 0 || offsets.back() != count ||
        !std::ranges::is_sorted(offsets)) {
      refuse("offsets must ascend from 0 to the " + std::to_string(count) + " tokens");
    }
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      const std::size_t before = s < sequences_.size() ? sequences_[s].pending() : 0;
      const auto begin = static_cast<std::size_t>(offsets[s]);
      const auto end = static_cast<std::size_t>(offsets[s + 1]);
      for (std::size_t i = begin; i < end; ++i) {
        const auto node = static_cast<std::int64_t>(before + i - begin);
        if (parents[i] >= -1 && parents[i] < node) continue;
        refuse("parents[" + std::to_string(i) + "] is " + std::to_string(parents[i]) +
               ", outside -1.." + std::to_string(node - 1) +
               "; a parent is a pending node of its sequence, before its row");
      }
    }
  }

  void check_wanted(std::size_t rows, const Rows<float>& logits,
                    std::span<const std::int64_t> wanted) const {
    std::int64_t last = -1;
    for (const std::int64_t row : wanted) {
      if (row <= last || row >= static_cast<std::int64_t>(rows)) {
        refuse("wanted must ascend within the " + std::to_string(rows) + " rows, but holds " +
               std::to_string(row) + " after " + std::to_string(last));
      }
      last = row;
    }
    if (logits.rows != wanted.size()) {
      refuse("logits has " + std::to_string(logits.rows) + " rows; " +
             std::to_string(wanted.size()) + " are wanted");
    }
    if (logits.columns != weights_.vocabulary) refuse("logits must have one column for each token");
  }

  static void check_path(const Sequence& sequence, std::span<const std::int64_t> nodes) {
    const auto refuse_node = [&](std::size_t i, const std::string& reason) {
      refuse("nodes[" + std::to_string(i) + "] is " + std::to_string(nodes[i]) + ", " + reason);
    };
    std::int64_t above = -1;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i] < 0 || static_cast<std::size_t>(nodes[i]) >= sequence.pending()) {
        refuse_node(
            i, "but the sequence has " + std::to_string(sequence.pending()) + " pending nodes");
      }
      const std::int32_t parent = sequence.parent(static_cast<std::size_t>(nodes[i]));
      if (parent != above) {
        refuse_node(i, "a child of " + std::to_string(parent) + " and not of " +
                           std::to_string(above) + "; give a path from the committed tokens down");
      }
      above = nodes[i];
    }
  }

  // Adds rows to their sequences as pending nodes.
  std::vector<Row> appended(const ForestRows& rows) {
    const std::size_t count = rows.offsets.size() - 1;
    while (sequences_.size() < count) {
      sequences_.emplace_back(layers_.size(), weights_.key_heads, weights_.head_size);
    }
    std::vector<Row> all;
    all.reserve(rows.tokens.size());
    for (std::size_t s = 0; s < count; ++s) {
      const auto begin = static_cast<std::size_t>(rows.offsets[s]);
      const auto end = static_cast<std::size_t>(rows.offsets[s + 1]);
      const std::size_t first = sequences_[s].pending();
      sequences_[s].append(rows.parents.subspan(begin, end - begin));
      for (std::size_t n = first; n < sequences_[s].pending(); ++n) {
        all.push_back({&sequences_[s], n});
      }
    }
    return all;
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

  Angles angles_of(std::span<const Row> rows) const {
    Angles angles;
    for (const Row& row : rows) {
      const auto position = static_cast<float>(row.sequence->position(row.node));
      for (const float frequency : weights_.rotation) {
        const float angle = position * frequency;
        angles.cosines.push_back(std::cos(angle) * weights_.rotation_scale);
        angles.sines.push_back(std::sin(angle) * weights_.rotation_scale);
      }
    }
    return angles;
  }

  RoundedRows rounded(const Matrix& x, std::size_t features) const {
    return {kernels_, x.data(), x.size() / features, features};
  }

  Matrix projected(const RoundedRows& input, const Quantised& projection) const {
    const std::size_t outputs = projection.out_features();
    Matrix out(input.rows() * outputs);
    over_outputs(outputs, [&](std::size_t first, std::size_t last) {
      projection.multiply(input, first, last, out.data(), outputs);
    });
    return out;
  }

  // Applies one layer to all rows of x.
  void pass(std::size_t index, std::span<const Row> rows, const Angles& angles, Matrix& x) {
    const Layer& layer = layers_[index];
    const std::size_t hidden = weights_.hidden;
    const auto norm = [&](const BFloat16* weight) {
      return rounded(normalised(x, hidden, weight, weights_.norm_epsilon), hidden);
    };
    const BFloat16* attention_norm = weights_.layers[index].attention_norm;
    add(projected(attention(index, rows, norm(attention_norm), angles), layer.output), x);
    add(projected(gated(layer, norm(weights_.layers[index].mlp_norm)), layer.down), x);
  }

  RoundedRows attention(std::size_t index, std::span<const Row> rows, const RoundedRows& input,
                        const Angles& angles) {
    const Layer& layer = layers_[index];
    const std::size_t size = weights_.head_size;
    Matrix query = projected(input, layer.query);
    Matrix key = projected(input, layer.key);
    const Matrix value = projected(input, layer.value);
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
    return rounded(out, weights_.heads * size);
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
      for (std::size_t k = 0; k < size; ++k) out[h * size + k] /= totals[h];
    }
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

  RoundedRows gated(const Layer& layer, const RoundedRows& input) const {
    const std::size_t features = layer.gate.out_features();
    Matrix gate(input.rows() * features);
    Matrix up(input.rows() * features);
    over_outputs(features, [&](std::size_t first, std::size_t last) {
      layer.gate.multiply(input, first, last, gate.data(), features);
      layer.up.multiply(input, first, last, up.data(), features);
      for (std::size_t r = 0; r < input.rows(); ++r) {
        const std::size_t at = r * features + first;
        gate_block(gate.data() + at, up.data() + at, last - first);
      }
    });
    return rounded(gate, features);
  }

  // Writes the logits of wanted rows, of which row `first` is the first one of x, from row `to` of
  // logits on.
  void write_logits(const Matrix& x, std::size_t first, std::span<const std::int64_t> wanted,
                    const Rows<float>& logits, std::size_t to) const {
    if (wanted.empty()) return;
    const std::size_t hidden = weights_.hidden;
    Matrix picked;
    picked.reserve(wanted.size() * hidden);
    for (const std::int64_t row : wanted) {
      const float* at = x.data() + (static_cast<std::size_t>(row) - first) * hidden;
      picked.insert(picked.end(), at, at + hidden);
    }
    const RoundedRows input =
        rounded(normalised(picked, hidden, weights_.final_norm, weights_.norm_epsilon), hidden);
    over_outputs(weights_.vocabulary, [&](std::size_t begin, std::size_t end) {
      head_.multiply(input, begin, end, logits[to], static_cast<std::size_t>(logits.stride));
    });
  }

  const Kernels& kernels_;
  TransformerWeights weights_;
  Quantised head_;
  std::vector<Layer> layers_;
  std::vector<Sequence> sequences_;
};

Transformer::Transformer(TransformerWeights weights)
    : Transformer(std::move(weights), variants().front()) {}
Transformer::Transformer(TransformerWeights weights, const Variant& variant)
    : state_(std::make_unique<State>(std::move(weights), variant)) {}
Transformer::~Transformer() = default;

std::size_t Transformer::sequences() const { return state_->sequences(); }
std::size_t Transformer::length(std::size_t sequence) const {
  return state_->sequence(sequence).length();
}
std::size_t Transformer::pending(std::size_t sequence) const {
  return state_->sequence(sequence).pending();
}
void Transformer::read(const ForestRows& rows, const Rows<float>& logits,
                       std::span<const std::int64_t> wanted) {
  state_->read(rows, logits, wanted);
}
void Transformer::keep(std::size_t sequence, std::span<const std::int64_t> nodes) {
  state_->keep(sequence, nodes);
}
void Transformer::commit(std::size_t sequence, std::size_t tokens, std::span<const float> keys,
                         std::span<const float> values) {
  state_->commit(sequence, tokens, keys, values);
}
void Transformer::truncate(std::size_t sequence, std::size_t length) {
  state_->truncate(sequence, length);
}
void Transformer::drop(std::size_t sequence) { state_->drop(sequence); }
void Transformer::clear() { state_->clear(); }

}  // namespace tokentiming::native
