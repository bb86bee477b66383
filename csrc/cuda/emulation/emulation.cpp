#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "device.h"

#ifdef TOKENTIMING_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace tokentiming::emulation {
namespace {

constexpr std::size_t kStackBytes = 256 << 10;
constexpr unsigned kLanes = 32;

std::string name(const Site& site) {
  const std::string file = site.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

// The fibres of a block or of a warp, which wait for each other.
struct Group {
  std::uint64_t completed = 0;  // barriers
  unsigned arrived = 0;
  Site site{};  // of the first to arrive

  // Whether the last of `size` fibres has arrived.
  bool arrive(unsigned size, const Site& here) {
    if (arrived == 0) site = here;
    if (site != here) {
      fail("threads that should meet at " + name(site) + " meet at " + name(here));
    }
    if (++arrived < size) return false;
    arrived = 0;
    ++completed;
    return true;
  }
};

struct Warp : Group {
  std::uint64_t bits[2][kLanes];  // alternating: some lanes may read while others continue
};

struct Block {
  Index index;
  Group threads;
  std::vector<Warp> warps;
  std::unique_ptr<std::byte[]> shared;
};

struct Fibre {
  ucontext_t context{};
  Index thread{};
  Block* block = nullptr;
  const Group* waits_for = nullptr;
  std::uint64_t since = 0;  // the group's completed barriers when the wait began
  bool done = false;
  bool slow = false;
  void* fake_stack = nullptr;

  bool waits() const { return waits_for != nullptr && waits_for->completed == since; }
};

// The memory of stack k, kept from launch to launch.
std::byte* stack(std::size_t k) {
  static std::vector<std::byte*> stacks;
  while (stacks.size() <= k) {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stacks.push_back(static_cast<std::byte*>(memory));
  }
#ifdef TOKENTIMING_ASAN
  ASAN_UNPOISON_MEMORY_REGION(stacks[k], kStackBytes);
#endif
  return stacks[k];
}

class Machine {
 public:
  Machine(Index grid, unsigned threads, std::size_t shared, const std::function<void()>& kernel)
      : grid_(grid),
        size_{threads, 1},
        shared_(shared),
        kernel_(kernel),
        random_(schedule().seed) {}

  // Runs blocks `begin` to `end` of the grid concurrently.
  void run(std::size_t begin, std::size_t end) {
    blocks_.clear();
    blocks_.resize(end - begin);
    fibres_.clear();
    fibres_.resize(blocks_.size() * size_.x);
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      Block& block = blocks_[b];
      const auto k = static_cast<unsigned>(begin + b);
      block.index = {k % grid_.x, k / grid_.x};
      block.warps.resize(size_.x / kLanes);
      block.shared.reset(new std::byte[shared_]);
      std::fill_n(block.shared.get(), shared_, schedule().fill);
      for (unsigned t = 0; t < size_.x; ++t) prepare(b * size_.x + t, block, t);
    }
    left_ = fibres_.size();
    std::vector<std::size_t> warps(fibres_.size() / kLanes);
    std::iota(warps.begin(), warps.end(), std::size_t{0});
    if (schedule().order == Order::kReverse) std::ranges::reverse(warps);
    while (left_ > 0) {
      moved_ = false;
      if (schedule().order == Order::kRandom) {
        run_at_random();
      } else {
        for (const std::size_t warp : warps) run_warp(warp * kLanes);
      }
      if (!moved_) {
        throw std::runtime_error("emulation: a barrier is not reached by all its threads");
      }
    }
  }

  Fibre& current() { return *current_; }
  const Index& grid() const { return grid_; }
  const Index& size() const { return size_; }
  std::size_t shared() const { return shared_; }
  bool interrupted() { return schedule().order == Order::kRandom && random_() % 4 == 0; }

  void suspend() {
    Fibre& fibre = *current_;
#ifdef TOKENTIMING_ASAN
    __sanitizer_start_switch_fiber(fibre.done ? nullptr : &fibre.fake_stack, main_stack_,
                                   main_size_);
#endif
    swapcontext(&fibre.context, &main_);
#ifdef TOKENTIMING_ASAN
    __sanitizer_finish_switch_fiber(fibre.fake_stack, &main_stack_, &main_size_);
#endif
  }

  static Machine* running;

 private:
  // Runs a warp until all of its fibres wait.
  void run_warp(std::size_t first) {
    for (bool moved = true; moved;) {
      moved = false;
      for (unsigned lane = 0; lane < kLanes; ++lane) {
        const bool reversed = schedule().order == Order::kReverse;
        moved |= step(first + (reversed ? kLanes - 1 - lane : lane));
      }
    }
  }

  // Runs each fibre once; the slow ones only when no other advances.
  void run_at_random() {
    std::vector<std::size_t> order(fibres_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::shuffle(order, random_);
    for (const std::size_t k : order) {
      if (!fibres_[k].slow) step(k);
    }
    if (moved_) return;
    for (const std::size_t k : order) {
      if (fibres_[k].slow) step(k);
    }
  }

  // Runs a fibre until it waits; false if it did not advance.
  bool step(std::size_t k) {
    Fibre& fibre = fibres_[k];
    if (fibre.done || fibre.waits()) return false;
    resume(k);
    if (failure_) std::rethrow_exception(failure_);
    if (fibre.done) --left_;
    moved_ = true;
    return true;
  }

  void prepare(std::size_t k, Block& block, unsigned thread) {
    Fibre& fibre = fibres_[k];
    fibre.thread = {thread, 0};
    fibre.slow = random_() % 8 == 0;
    fibre.block = &block;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stack(k);
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, &Machine::enter, 0);
  }

  static void enter() {
    Machine& machine = *running;
#ifdef TOKENTIMING_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &machine.main_stack_, &machine.main_size_);
#endif
    try {
      machine.kernel_();
    } catch (...) {
      machine.failure_ = std::current_exception();
    }
    machine.current_->done = true;
    machine.suspend();
  }

  void resume(std::size_t k) {
    current_ = &fibres_[k];
    current_->waits_for = nullptr;
#ifdef TOKENTIMING_ASAN
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, current_->context.uc_stack.ss_sp, kStackBytes);
#endif
    swapcontext(&main_, &current_->context);
#ifdef TOKENTIMING_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  Index grid_;
  Index size_;
  std::size_t shared_;
  const std::function<void()>& kernel_;
  std::mt19937 random_;
  std::vector<Block> blocks_;
  std::vector<Fibre> fibres_;
  std::size_t left_ = 0;  // fibres that have not finished
  bool moved_ = false;    // a fibre advanced in this round
  Fibre* current_ = nullptr;
  ucontext_t main_{};
  const void* main_stack_ = nullptr;
  std::size_t main_size_ = 0;
  std::exception_ptr failure_;
};

Machine* Machine::running = nullptr;

Fibre& current() { return Machine::running->current(); }

void wait_for(const Group& group) {
  Fibre& fibre = current();
  fibre.waits_for = &group;
  fibre.since = group.completed;
  Machine::running->suspend();
}

}  // namespace

Schedule& schedule() {
  static Schedule schedule;
  return schedule;
}

std::set<std::string>& barriers() {
  static std::set<std::string> met;
  return met;
}

const Index& thread_index() { return current().thread; }
const Index& block_index() { return current().block->index; }
const Index& block_size() { return Machine::running->size(); }
const Index& grid_size() { return Machine::running->grid(); }

void* shared_bytes(std::size_t needed) {
  if (needed > Machine::running->shared()) fail("the launch gives too little shared memory");
  return current().block->shared.get();
}

void block_barrier(const Site& site) {
  if (thread_index().x == 0) barriers().insert(name(site));
  if (!schedule().dropped.empty() && name(site) == schedule().dropped) return;
  Group& group = current().block->threads;
  if (!group.arrive(block_size().x, site)) wait_for(group);
}

const std::uint64_t* warp_exchange(std::uint64_t bits, const Site& site) {
  Warp& warp = current().block->warps[thread_index().x / kLanes];
  auto& exchanged = warp.bits[warp.completed % 2];
  exchanged[lane()] = bits;
  if (!warp.arrive(kLanes, site)) wait_for(warp);
  return exchanged;
}

void yield_fibre() {
  if (Machine::running->interrupted()) Machine::running->suspend();
}

void fail(const std::string& what) { throw std::runtime_error("emulation: " + what); }

void run(Index grid, unsigned threads, std::size_t shared, const std::function<void()>& kernel) {
  if (threads == 0 || threads % kLanes != 0)
    fail("the threads of a block are not a multiple of 32");
  const std::size_t blocks = std::size_t{grid.x} * grid.y;
  const std::size_t at_once = schedule().resident_blocks;
  if (blocks == 0) fail("a launch of no blocks");
  Machine machine(grid, threads, shared, kernel);
  Machine::running = &machine;
  for (std::size_t begin = 0; begin < blocks; begin += at_once) {
    machine.run(begin, std::min(begin + at_once, blocks));
  }
}

}  // namespace tokentiming::emulation
