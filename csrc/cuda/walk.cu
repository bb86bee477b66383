// Walks through trees of proposed tokens, one warp per tree. The lanes load 32 nodes at a time; a
// vote finds the accepted child among them, and a shuffle the token picked after it.

#include "device/launch.h"
#include "device/ragged.h"
#include "tokentiming/walk.h"
#include "walk_checks.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kWalk = "walk";

}  // namespace

struct WalkArguments {
  const std::int64_t* picked;
  AnyIds ids;
  Sequences trees;
  const std::int32_t* parents;
  std::int64_t* tokens;
  std::int32_t* nodes;
  std::int32_t* accepted;
};

// What a lane loads of a node.
struct WalkNode {
  std::int64_t token;
  std::int64_t picked;  // after the node
  std::int32_t parent;
};

inline constexpr std::int32_t kRoot = -1;
inline constexpr std::int32_t kNoNode = -2;  // the parent where a lane has no node

class TreeWalk {
 public:
  __device__ explicit TreeWalk(const WalkArguments& a)
      : a_(a), b_(blockIdx.x), lane_(static_cast<int>(threadIdx.x)) {}

  __device__ void run() {
    if (!a_.trees.is_valid(b_)) return write_accepted(-1);
    begin_ = a_.trees.begin(b_);
    count_ = static_cast<std::int32_t>(a_.trees.end(b_) - begin_);
    std::int64_t* const tokens = a_.tokens + begin_ + b_;
    std::int32_t* const nodes = a_.nodes + begin_;

    std::int32_t current = kRoot;
    std::int64_t token = a_.picked[begin_ + b_];
    std::int32_t accepted = 0;
    bool valid = token >= 0;
    WalkNode next = load(lane_);
    for (std::int64_t first = 0; first < count_; first += kWarp) {
      const WalkNode node = next;
      next = load(first + kWarp + lane_);  // in flight during this node's votes
      valid = valid && is_valid(node, first + lane_);
      // A node has one parent, so that a walk from the root returns to no node even if parents are
      // invalid: it ends, and accepts at most all nodes.
      for (;;) {
        const bool is_next = node.parent == current && node.token == token;
        const unsigned children = __ballot_sync(kAllLanes, is_next);
        if (children == 0) break;
        const int child = __ffs(children) - 1;
        current = static_cast<std::int32_t>(first) + child;
        put(tokens, accepted, token);
        put(nodes, accepted, current);
        token = __shfl_sync(kAllLanes, node.picked, static_cast<unsigned>(child));
        ++accepted;
      }
    }
    if (__any_sync(kAllLanes, !valid)) {
      fill(tokens, 0, count_ + std::int64_t{1});
      fill(nodes, 0, count_);
      return write_accepted(-1);
    }
    put(tokens, accepted, token);
    fill(tokens, accepted + std::int64_t{1}, count_ + std::int64_t{1});
    fill(nodes, accepted, count_);
    write_accepted(accepted);
  }

 private:
  __device__ WalkNode load(std::int64_t i) const {
    if (i >= count_) return {-1, 0, kNoNode};
    const std::int64_t row = begin_ + b_ + 1 + i;
    return {a_.ids[begin_ + i], a_.picked[row], a_.parents[begin_ + i]};
  }
  __device__ bool is_valid(const WalkNode& node, std::int64_t i) const {
    return i >= count_ || (node.parent >= kRoot && node.parent < i && node.picked >= 0);
  }

  // Only lane k % 32 writes result k of a tree, so that no barrier is needed before it is
  // overwritten.
  template <class T>
  __device__ void put(T* results, std::int32_t k, T value) const {
    if (k % static_cast<int>(kWarp) == lane_) results[k] = value;
  }
  template <class T>
  __device__ void fill(T* results, std::int64_t from, std::int64_t end) const {
    for (std::int64_t k = lane_; k < end; k += kWarp) {
      if (k >= from) results[k] = -1;
    }
  }
  __device__ void write_accepted(std::int32_t accepted) const {
    if (lane_ == 0) a_.accepted[b_] = accepted;
  }

  const WalkArguments& a_;
  std::int64_t b_;
  int lane_;
  std::int64_t begin_ = 0;
  std::int32_t count_ = 0;
};

__global__ void __launch_bounds__(kWarp)
    walk_tree(const __grid_constant__ WalkArguments arguments) {
  TreeWalk(arguments).run();
}

// ---- host ----

template <class Id>
void walk(std::span<const std::int64_t> picked, const Forest<Id>& forest,
          std::span<std::int64_t> tokens, std::span<std::int32_t> nodes,
          std::span<std::int32_t> accepted, Stream stream) {
  require_cuda(kWalk);
  check_walk_sizes(picked.size(), forest, tokens.size(), nodes.size(), accepted.size());
  const std::size_t batch = accepted.size();
  if (batch == 0) return;
  const DeviceGuard guard(kWalk, stream);
  const WalkArguments arguments{picked.data(),
                                any_ids(forest.tokens.ids),
                                sequences(forest.tokens, batch, kWalk, "tokens"),
                                forest.parents.data(),
                                tokens.data(),
                                nodes.data(),
                                accepted.data()};
  launch(kWalk, walk_tree, {static_cast<unsigned>(batch), 1, kWarp, 0}, stream, arguments);
}

template void walk(std::span<const std::int64_t>, const Forest<std::int32_t>&,
                   std::span<std::int64_t>, std::span<std::int32_t>, std::span<std::int32_t>,
                   Stream);
template void walk(std::span<const std::int64_t>, const Forest<std::int64_t>&,
                   std::span<std::int64_t>, std::span<std::int32_t>, std::span<std::int32_t>,
                   Stream);

}  // namespace tokentiming::cuda
