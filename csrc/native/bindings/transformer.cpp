#include "native/transformer.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
#include "native/bindings/bindings.h"
#include "rows.h"
#include "tensor.h"

namespace tokentiming::python {
namespace {

using native::Projection;
using native::Transformer;
using native::TransformerLayer;
using native::TransformerWeights;

constexpr const char* kTransformer = "transformer";

// A transformer and the Python tensors whose memory it borrows.
class BoundTransformer {
 public:
  // Each layer is a tuple (attention_norm, query, key, value, output, mlp_norm, gate, up, down).
  // Each projection is a pair (weight, bias or None).
  BoundTransformer(py::object embedding, py::list layers, py::object final_norm, py::object head,
                   std::vector<float> rotation, float rotation_scale, std::size_t heads,
                   std::size_t key_heads, float norm_epsilon, bool rounded)
      : owners_{py::make_tuple(embedding, layers, final_norm, head)} {
    TransformerWeights weights;
    const Tensor table(embedding, kTransformer, "embedding");
    table.require_dimensions(2, "[V, hidden]");
    weights.embedding = table.elements<BFloat16>().data();
    weights.vocabulary = static_cast<std::size_t>(table.size(0));
    weights.hidden = static_cast<std::size_t>(table.size(1));
    weights.heads = heads;
    weights.key_heads = key_heads;
    weights.head_size = 2 * rotation.size();
    weights.rotation = std::move(rotation);
    weights.rotation_scale = rotation_scale;
    weights.norm_epsilon = norm_epsilon;
    weights.final_norm = vector(final_norm, "final_norm", weights.hidden);
    weights.head = projection(py::make_tuple(head, py::none()), "head", weights.hidden);
    for (const py::handle layer : layers) {
      weights.layers.push_back(read_layer(tuple_of(layer, 9, "layers"), weights));
    }
    transformer_.emplace(std::move(weights),
                         rounded ? native::Numbers::kRounded : native::Numbers::kOwn);
  }

  std::size_t sequences() const { return transformer_->sequences(); }
  std::size_t length(std::size_t sequence) const { return transformer_->length(sequence); }
  std::size_t pending(std::size_t sequence) const { return transformer_->pending(sequence); }
  void truncate(std::size_t sequence, std::size_t length) {
    transformer_->truncate(sequence, length);
  }
  void drop(std::size_t sequence) { transformer_->drop(sequence); }
  void clear() { transformer_->clear(); }

  void read(py::handle tokens_object, py::handle parents_object, py::handle offsets_object,
            py::handle logits_object, py::handle wanted_object) {
    const Tensor tokens(tokens_object, kTransformer, "tokens");
    const Tensor parents(parents_object, kTransformer, "parents");
    const Tensor offsets(offsets_object, kTransformer, "offsets");
    const Tensor logits(logits_object, kTransformer, "logits");
    const Tensor wanted(wanted_object, kTransformer, "wanted");
    tokens.require_dimensions(1, "[T]");
    parents.require_dimensions(1, "[T]");
    offsets.require_dimensions(1, "[S + 1]");
    logits.require_dimensions(2, "[W, V]");
    wanted.require_dimensions(1, "[W]");
    require_apart({&logits}, {&tokens, &parents, &offsets, &wanted});
    const native::ForestRows rows{tokens.elements<std::int64_t>(), parents.elements<std::int32_t>(),
                                  offsets.elements<std::int64_t>()};
    const auto wanted_rows = wanted.elements<std::int64_t>();
    const Rows<float> out = writable_rows<float>(logits);
    const py::gil_scoped_release unlocked;
    transformer_->read(rows, out, wanted_rows);
  }

  void keep(std::size_t sequence, py::handle nodes_object) {
    const Tensor nodes(nodes_object, kTransformer, "nodes");
    nodes.require_dimensions(1, "[n]");
    const auto path = nodes.elements<std::int64_t>();
    const py::gil_scoped_release unlocked;
    transformer_->keep(sequence, path);
  }

  void commit(std::size_t sequence, py::handle keys_object, py::handle values_object) {
    const Tensor keys(keys_object, kTransformer, "keys");
    const Tensor values(values_object, kTransformer, "values");
    keys.require_dimensions(3, "[layers, T, heads * size]");
    values.require_dimensions(3, "[layers, T, heads * size]");
    const auto from = keys.elements<float>();
    const auto also = values.elements<float>();
    const py::gil_scoped_release unlocked;
    transformer_->commit(sequence, static_cast<std::size_t>(keys.size(1)), from, also);
  }

 private:
  static py::tuple tuple_of(py::handle object, std::size_t size, const char* name) {
    if (py::isinstance<py::tuple>(object) && py::len(object) == size) {
      return py::reinterpret_borrow<py::tuple>(object);
    }
    throw WrongType(std::string(kTransformer) + ": " + name + " must hold tuples of " +
                    std::to_string(size) + " entries");
  }

  static const BFloat16* vector(py::handle object, const char* name, std::size_t size) {
    const Tensor tensor(object, kTransformer, name);
    tensor.require_dimensions(1, "[features]");
    if (static_cast<std::size_t>(tensor.size(0)) != size) {
      tensor.refuse("must have " + std::to_string(size) + " entries, got " +
                    std::to_string(tensor.size(0)));
    }
    return tensor.elements<BFloat16>().data();
  }

  static Projection projection(py::handle pair_object, const char* name, std::size_t in_features) {
    const py::tuple pair = tuple_of(pair_object, 2, name);
    const Tensor weight(pair[0], kTransformer, name);
    weight.require_dimensions(2, "[out, in]");
    if (static_cast<std::size_t>(weight.size(1)) != in_features) {
      weight.refuse("must have " + std::to_string(in_features) + " columns, got " +
                    std::to_string(weight.size(1)));
    }
    const auto outputs = static_cast<std::size_t>(weight.size(0));
    const BFloat16* bias = pair[1].is_none() ? nullptr : vector(pair[1], name, outputs);
    return {weight.elements<BFloat16>().data(), bias, outputs};
  }

  static TransformerLayer read_layer(const py::tuple& parts, const TransformerWeights& weights) {
    const std::size_t hidden = weights.hidden;
    TransformerLayer layer{};
    layer.attention_norm = vector(parts[0], "attention_norm", hidden);
    layer.query = projection(parts[1], "query", hidden);
    layer.key = projection(parts[2], "key", hidden);
    layer.value = projection(parts[3], "value", hidden);
    layer.output = projection(parts[4], "output", weights.heads * weights.head_size);
    layer.mlp_norm = vector(parts[5], "mlp_norm", hidden);
    layer.gate = projection(parts[6], "gate", hidden);
    layer.up = projection(parts[7], "up", hidden);
    layer.down = projection(parts[8], "down", layer.gate.out_features);
    return layer;
  }

  py::tuple owners_;
  std::optional<Transformer> transformer_;
};

}  // namespace

void bind_transformer(py::module_& module) {
  py::class_<BoundTransformer>(module, "Transformer")
      .def(py::init<py::object, py::list, py::object, py::object, std::vector<float>, float,
                    std::size_t, std::size_t, float, bool>())
      .def("sequences", &BoundTransformer::sequences)
      .def("length", &BoundTransformer::length)
      .def("pending", &BoundTransformer::pending)
      .def("read", &BoundTransformer::read)
      .def("keep", &BoundTransformer::keep)
      .def("commit", &BoundTransformer::commit)
      .def("truncate", &BoundTransformer::truncate)
      .def("drop", &BoundTransformer::drop)
      .def("clear", &BoundTransformer::clear);
}

}  // namespace tokentiming::python
