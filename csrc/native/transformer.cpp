#include "native/transformer.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "native/forward_pass.h"
#include "native/kernels.h"
#include "native/sequence.h"

namespace tokentiming::native {
namespace {

// Maximum number of rows in one pass: enough for the products to run at full speed, few enough to
// keep the activations small.
constexpr std::size_t kMaxRows = 192;

[[noreturn]] void refuse(const std::string& message) {
  throw std::invalid_argument("transformer: " + message);
}

}  // namespace

class Transformer::State {
 public:
  State(TransformerWeights weights, Numbers numbers, const Variant& variant)
      : weights_(checked(std::move(weights))),
        pass_(forward_pass(weights_, numbers, required(variant))) {}

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
      const auto later = std::ranges::lower_bound(wanted, static_cast<std::int64_t>(begin + count));
      const auto end = static_cast<std::size_t>(later - wanted.begin());
      const Rows<float> out{logits[written], end - written, logits.columns, logits.stride};
      pass_->run(now, rows.tokens.subspan(begin, count), wanted.subspan(written, end - written),
                 begin, out);
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
    const std::size_t size = weights_.layers.size() * tokens * width;
    if (keys.size() != size || values.size() != size) {
      refuse("keys and values must have shape [layers, tokens, heads * size], " +
             std::to_string(weights_.layers.size()) + " layers and " + std::to_string(width) +
             " columns");
    }
    if (found.pending() != 0) refuse("commit needs a sequence without pending nodes; call keep");
    std::vector<std::int32_t> parents(tokens);
    std::iota(parents.begin(), parents.end(), -1);
    std::vector<std::int64_t> path(tokens);
    std::iota(path.begin(), path.end(), 0);
    found.append(parents);
    for (std::size_t at = 0; at < weights_.layers.size() * tokens; ++at) {
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
      sequences_.emplace_back(weights_.layers.size(), weights_.key_heads, weights_.head_size);
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

  TransformerWeights weights_;
  std::unique_ptr<ForwardPass> pass_;
  std::vector<Sequence> sequences_;
};

Transformer::Transformer(TransformerWeights weights, Numbers numbers)
    : Transformer(std::move(weights), numbers, variants().front()) {}
Transformer::Transformer(TransformerWeights weights, Numbers numbers, const Variant& variant)
    : state_(std::make_unique<State>(std::move(weights), numbers, variant)) {}
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
