// Several sequences and trees, against their paths read as chains by fresh transformers.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "native/kernels.h"
#include "native/transformer.h"
#include "small_model.h"

using namespace tokentiming::native;

namespace {

struct Node {
  std::int64_t token;
  std::int32_t parent;
};

// The slow twin of one sequence: its tokens and nodes, read anew for every question.
class Twin {
 public:
  std::vector<std::int64_t> committed;
  std::vector<Node> pending;

  std::vector<std::int64_t> path(std::int64_t node) const {
    std::vector<std::int64_t> nodes;
    for (; node >= 0; node = pending[static_cast<std::size_t>(node)].parent) nodes.push_back(node);
    std::ranges::reverse(nodes);
    return nodes;
  }

  std::vector<std::int64_t> text(std::int64_t node) const {
    std::vector<std::int64_t> ids = committed;
    for (const std::int64_t n : path(node)) {
      ids.push_back(pending[static_cast<std::size_t>(n)].token);
    }
    return ids;
  }

  // Logits after a node.
  std::vector<float> logits(const Weights& weights, const Implementation& how,
                            std::int64_t node) const {
    Transformer fresh(*weights, how.numbers, how.variant);
    return read_chain(fresh, text(node), 1);
  }

  void keep(std::int64_t node) {
    committed = text(node);
    pending.clear();
  }
  void truncate(std::size_t length) {
    committed.resize(length);
    pending.clear();
  }
};

// A transformer beside the twins of its sequences.
class Pair {
 public:
  Pair(const Weights& weights, const Implementation& how)
      : weights_(weights), how_(how), model_(*weights, how.numbers, how.variant) {}

  Transformer& model() { return model_; }
  const std::vector<Twin>& twins() const { return twins_; }

  // Reads rows, the new nodes of each sequence, and checks the logits of every `stride`-th row.
  void read(const std::vector<std::vector<Node>>& rows, std::size_t stride = 1) {
    struct Asked {
      std::size_t sequence;
      std::int64_t node;
    };
    std::vector<std::int64_t> tokens, offsets = {0}, wanted;
    std::vector<std::int32_t> parents;
    std::vector<Asked> asked;
    if (twins_.size() < rows.size()) twins_.resize(rows.size());
    for (std::size_t s = 0; s < rows.size(); ++s) {
      for (const Node& node : rows[s]) {
        if (tokens.size() % stride == 0) {
          wanted.push_back(static_cast<std::int64_t>(tokens.size()));
          asked.push_back({s, static_cast<std::int64_t>(twins_[s].pending.size())});
        }
        twins_[s].pending.push_back(node);
        tokens.push_back(node.token);
        parents.push_back(node.parent);
      }
      offsets.push_back(static_cast<std::int64_t>(tokens.size()));
    }
    const auto logits = tokentiming::native::read(model_, {tokens, parents, offsets}, wanted);
    for (std::size_t w = 0; w < asked.size(); ++w) {
      const std::size_t sequence = asked[w].sequence;  // no bindings, which clang 14 cannot capture
      const std::int64_t node = asked[w].node;
      const auto expected = twins_[sequence].logits(weights_, how_, node);
      CAPTURE(sequence);
      CAPTURE(node);
      REQUIRE(std::equal(expected.begin(), expected.end(),
                         logits.begin() + static_cast<std::ptrdiff_t>(w * Weights::kVocabulary)));
    }
  }

  void keep(std::size_t sequence, std::int64_t node) {
    model_.keep(sequence, twins_[sequence].path(node));
    twins_[sequence].keep(node);
    REQUIRE(model_.length(sequence) == twins_[sequence].committed.size());
    REQUIRE(model_.pending(sequence) == 0);
  }
  void truncate(std::size_t sequence, std::size_t length) {
    model_.truncate(sequence, length);
    twins_[sequence].truncate(length);
  }
  void drop(std::size_t sequence) {
    model_.drop(sequence);
    std::swap(twins_[sequence], twins_.back());
    twins_.pop_back();
    REQUIRE(model_.sequences() == twins_.size());
  }

 private:
  const Weights& weights_;
  Implementation how_;
  Transformer model_;
  std::vector<Twin> twins_;
};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}

  // In low .. high.
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }

  // New nodes behind `pending` ones; each continues a chain or hangs anywhere.
  std::vector<Node> nodes(std::size_t pending, std::int64_t count) {
    std::vector<Node> nodes;
    for (std::int64_t n = 0; n < count; ++n) {
      const auto last = static_cast<std::int64_t>(pending) + n - 1;
      const std::int64_t parent = between(0, 1) ? last : between(-1, last);
      nodes.push_back({between(0, Weights::kVocabulary - 1), static_cast<std::int32_t>(parent)});
    }
    return nodes;
  }

 private:
  std::mt19937 engine_;
};

// Each node the parent of the next.
std::vector<Node> chain(std::size_t length) {
  std::vector<Node> nodes;
  for (std::size_t i = 0; i < length; ++i) {
    nodes.push_back({static_cast<std::int64_t>(7 * i % Weights::kVocabulary),
                     static_cast<std::int32_t>(i) - 1});
  }
  return nodes;
}

}  // namespace

TEST_CASE("siblings do not attend to each other, and have the same position") {
  const Weights weights;
  for_each_implementation([&](const Implementation& how) {
    Pair pair(weights, how);
    pair.read({{{3, -1}, {9, -1}, {9, 0}, {40, 1}, {3, 2}, {17, 0}, {8, -1}}});
    pair.read({{{5, 3}, {6, 6}, {6, 8}, {7, -1}}});
  });
}

TEST_CASE("a kept path in the middle of the tree keeps its order") {
  const Weights weights;
  for_each_implementation([&](const Implementation& how) {
    Pair pair(weights, how);
    pair.read({chain(5)});
    pair.keep(0, 4);
    pair.read({{{1, -1}, {2, -1}, {3, 1}, {4, 1}, {5, 3}, {6, 0}}});
    pair.keep(0, 4);  // 1, 3, 4
    CHECK(pair.twins()[0].committed == std::vector<std::int64_t>{0, 7, 14, 21, 28, 2, 4, 5});
    pair.read({chain(3)});
    pair.keep(0, -1);  // none
    pair.read({chain(2)});
    pair.keep(0, 0);
    pair.read({chain(2)});
  });
}

TEST_CASE("random forests with keeps, truncations, drops and additions") {
  const Weights weights;
  for_each_implementation([&](const Implementation& how) {
    for (unsigned seed = 0; seed < 8; ++seed) {
      CAPTURE(seed);
      Random random(seed);
      Pair pair(weights, how);
      for (int round = 0; round < 25; ++round) {
        CAPTURE(round);
        const auto before = static_cast<std::int64_t>(pair.twins().size());
        std::vector<std::vector<Node>> rows(
            static_cast<std::size_t>(random.between(0, std::min<std::int64_t>(before + 2, 5))));
        for (std::size_t s = 0; s < rows.size(); ++s) {
          const std::size_t pending = s < pair.twins().size() ? pair.twins()[s].pending.size() : 0;
          rows[s] = random.nodes(pending, random.between(0, 6));
        }
        pair.read(rows);
        if (pair.twins().empty()) continue;
        const auto last = static_cast<std::int64_t>(pair.twins().size()) - 1;
        const auto sequence = static_cast<std::size_t>(random.between(0, last));
        const Twin& twin = pair.twins()[sequence];
        switch (random.between(0, 5)) {
          case 0:
          case 1: {
            const auto pending = static_cast<std::int64_t>(twin.pending.size());
            pair.keep(sequence, random.between(-1, pending - 1));
            break;
          }
          case 2: {
            const auto committed = static_cast<std::int64_t>(twin.committed.size());
            pair.truncate(sequence, static_cast<std::size_t>(random.between(0, committed)));
            break;
          }
          case 3:
            pair.drop(sequence);
            break;
          default:
            break;  // the next rows grow the trees
        }
      }
    }
  });
}

TEST_CASE("a forest of more rows than one pass reads") {
  const Weights weights;
  for_each_implementation([&](const Implementation& how) {
    Pair pair(weights, how);
    Random random(1);
    pair.read({chain(3), {}, chain(1)});
    pair.keep(0, 2);
    pair.read({random.nodes(0, 150), random.nodes(0, 170), random.nodes(1, 150)}, 13);
  });
}

TEST_CASE("a tree after a long pending chain") {
  const Weights weights;
  for_each_implementation([&](const Implementation& how) {
    Pair pair(weights, how);
    pair.read({chain(2000)}, 1999);
    pair.read({{{1, 1999}, {2, 1999}, {3, 2000}, {4, 2001}, {5, 700}}});
    pair.keep(0, 2003);
    pair.read({chain(2)});
  });
}

TEST_CASE("clear forgets all sequences") {
  const Weights weights;
  for_each_implementation([&](const Implementation& how) {
    Transformer model(*weights, how.numbers, how.variant);
    const auto first = read_chain(model, {1, 2, 3}, 3);
    model.clear();
    CHECK(model.sequences() == 0);
    CHECK(read_chain(model, {1, 2, 3}, 3) == first);
  });
}

TEST_CASE("refused calls change nothing and name the argument") {
  const Weights weights;
  for_each_implementation([&](const Implementation& how) {
    Transformer model(*weights, how.numbers, how.variant);
    const auto refusal = [](const auto& call) -> std::string {
      try {
        call();
      } catch (const std::invalid_argument& error) {
        return error.what();
      }
      return "";
    };
    using Ids = std::vector<std::int64_t>;
    const auto reading = [&](const Ids& tokens, const std::vector<std::int32_t>& parents,
                             const Ids& offsets, const Ids& wanted) {
      return refusal([&] { read(model, {tokens, parents, offsets}, wanted); });
    };
    REQUIRE(reading({1, 2, 3, 4}, {-1, 0, 0, -1}, {0, 3, 4}, {}) == "");

    CHECK(reading({1, -1}, {-1, 0}, {0, 2}, {}) == "transformer: tokens[1] is -1, outside 0..52");
    CHECK(reading({53}, {-1}, {0, 1}, {}) == "transformer: tokens[0] is 53, outside 0..52");
    CHECK(reading({1}, {}, {0, 1}, {}) ==
          "transformer: parents has 0 entries and tokens 1; give one parent for each token");
    const std::string offsets = "transformer: offsets must ascend from 0 to the 2 tokens";
    for (const Ids& wrong :
         {Ids{}, Ids{0}, Ids{0, 1}, Ids{0, 3}, Ids{1, 2}, Ids{0, 3, 2}, Ids{0, -1, 2}}) {
      CHECK(reading({1, 2}, {-1, -1}, wrong, {}) == offsets);
    }
    // The first sequence has 3 pending nodes, the second 1, and a third would have none.
    const std::string what = "; a parent is a pending node of its sequence, before its row";
    CHECK(reading({1}, {3}, {0, 1}, {}) == "transformer: parents[0] is 3, outside -1..2" + what);
    CHECK(reading({1, 2}, {2, -2}, {0, 2}, {}) ==
          "transformer: parents[1] is -2, outside -1..3" + what);
    CHECK(reading({1, 2}, {0, 2}, {0, 0, 2}, {}) ==
          "transformer: parents[1] is 2, outside -1..1" + what);
    CHECK(reading({1}, {0}, {0, 0, 0, 1}, {}) ==
          "transformer: parents[0] is 0, outside -1..-1" + what);
    const std::string ascend = "transformer: wanted must ascend within the 2 rows, but holds ";
    CHECK(reading({1, 2}, {0, 0}, {0, 2}, {2}) == ascend + "2 after -1");
    CHECK(reading({1, 2}, {0, 0}, {0, 2}, {-1}) == ascend + "-1 after -1");
    CHECK(reading({1, 2}, {0, 0}, {0, 2}, {1, 1}) == ascend + "1 after 1");
    std::vector<float> memory(2 * Weights::kVocabulary);
    const Ids token = {1}, one = {0, 1}, row = {0};
    const std::vector<std::int32_t> parent = {-1};
    CHECK(refusal([&] { model.read({token, parent, one}, {memory.data(), 2, 53, 53}, row); }) ==
          "transformer: logits has 2 rows; 1 are wanted");
    CHECK(refusal([&] { model.read({token, parent, one}, {memory.data(), 1, 52, 52}, row); }) ==
          "transformer: logits must have one column for each token");

    CHECK(refusal([&] { model.keep(0, Ids{0, 3}); }) ==
          "transformer: nodes[1] is 3, but the sequence has 3 pending nodes");
    CHECK(refusal([&] { model.keep(0, Ids{-1}); }) ==
          "transformer: nodes[0] is -1, but the sequence has 3 pending nodes");
    const std::string path = "; give a path from the committed tokens down";
    CHECK(refusal([&] { model.keep(0, Ids{0, 1, 2}); }) ==
          "transformer: nodes[2] is 2, a child of 0 and not of 1" + path);
    CHECK(refusal([&] { model.keep(0, Ids{1}); }) ==
          "transformer: nodes[0] is 1, a child of 0 and not of -1" + path);
    CHECK(refusal([&] { model.keep(0, Ids{0, 0}); }) ==
          "transformer: nodes[1] is 0, a child of -1 and not of 0" + path);
    CHECK(refusal([&] { model.truncate(0, 1); }) ==
          "transformer: length is 1, more than the 0 tokens committed");
    const std::string missing = "transformer: sequence is 2, but there are 2";
    CHECK(refusal([&] { model.keep(2, Ids{}); }) == missing);
    CHECK(refusal([&] { model.truncate(2, 0); }) == missing);
    CHECK(refusal([&] { model.drop(2); }) == missing);
    CHECK(refusal([&] { model.length(2); }) == missing);
    CHECK(refusal([&] { model.pending(2); }) == missing);

    CHECK(model.sequences() == 2);
    CHECK(model.pending(0) == 3);
    CHECK(model.pending(1) == 1);
    CHECK(model.length(0) == 0);
    model.keep(0, Ids{0, 2});
    Transformer fresh(*weights, how.numbers, how.variant);
    const auto expected = read_chain(fresh, {1, 3, 9}, 1);
    CHECK(read_chain(model, {9}, 1) == expected);
  });
}
