// The functions of cuda.h in a build without CUDA.

#include <stdexcept>
#include <string>

#include "tokentiming/cuda.h"

namespace tokentiming::cuda {
namespace {

[[noreturn]] void refuse(const char* operation) {
  throw std::runtime_error(std::string(operation) +
                           ": tokentiming was built without CUDA; build it where nvcc is found, "
                           "with TOKENTIMING_CUDA=ON, or move the tensors to the CPU");
}

}  // namespace

bool is_built() { return false; }

std::size_t sample_workspace(std::size_t, std::size_t) { return 0; }
std::size_t verify_workspace(std::size_t) { return 0; }
std::size_t transfer_workspace(std::size_t) { return 0; }
std::size_t restrict_workspace(std::size_t) { return 0; }

template <class Logit>
void sample(const Rows<const Logit>&, std::span<const std::uint64_t>, std::uint64_t,
            std::span<const State>, std::span<std::int64_t>, std::span<std::byte>, Stream) {
  refuse("sample");
}

void log_noise(std::span<const std::uint64_t>, std::uint64_t, std::span<const State>,
               std::span<double>, Stream) {
  refuse("log_noise");
}

template <class Id>
void verify(const Chains<Id>&, const Rows<std::int32_t>&, std::span<std::int32_t>,
            std::span<std::byte>, Stream) {
  refuse("verify");
}

template <class Id>
void align(const Ragged<Id>&, const Ragged<Id>&, const ByteTable&, const ByteTable&, std::int64_t,
           std::span<std::int32_t>, std::span<std::int64_t>, Stream) {
  refuse("align");
}

template <class Number, class Id>
void transfer(const Rows<const Number>&, const Ragged<Id>&, const Ragged<Id>&,
              std::span<const std::int32_t>, const ByteTable&, const ByteTable&,
              const VocabularyMap&, const Rows<Number>&, std::span<std::int8_t>,
              std::span<std::byte>, Stream) {
  refuse("transfer");
}

template <class Number>
void restrict_to_shared(const Rows<const Number>&, const VocabularyMap&, const Rows<Number>&,
                        std::span<std::byte>, Stream) {
  refuse("restrict");
}

#define TOKENTIMING_SAMPLE(Logit)                                                               \
  template void sample(const Rows<const Logit>&, std::span<const std::uint64_t>, std::uint64_t, \
                       std::span<const State>, std::span<std::int64_t>, std::span<std::byte>,   \
                       Stream)
TOKENTIMING_SAMPLE(Half);
TOKENTIMING_SAMPLE(BFloat16);
TOKENTIMING_SAMPLE(float);
TOKENTIMING_SAMPLE(double);

#define TOKENTIMING_BY_ID(Id)                                                                   \
  template void verify(const Chains<Id>&, const Rows<std::int32_t>&, std::span<std::int32_t>,   \
                       std::span<std::byte>, Stream);                                           \
  template void align(const Ragged<Id>&, const Ragged<Id>&, const ByteTable&, const ByteTable&, \
                      std::int64_t, std::span<std::int32_t>, std::span<std::int64_t>, Stream)
TOKENTIMING_BY_ID(std::int32_t);
TOKENTIMING_BY_ID(std::int64_t);

#define TOKENTIMING_TRANSFER(Number, Id)                                                    \
  template void transfer(const Rows<const Number>&, const Ragged<Id>&, const Ragged<Id>&,   \
                         std::span<const std::int32_t>, const ByteTable&, const ByteTable&, \
                         const VocabularyMap&, const Rows<Number>&, std::span<std::int8_t>, \
                         std::span<std::byte>, Stream)
#define TOKENTIMING_BY_NUMBER(Number)                                               \
  TOKENTIMING_TRANSFER(Number, std::int32_t);                                       \
  TOKENTIMING_TRANSFER(Number, std::int64_t);                                       \
  template void restrict_to_shared(const Rows<const Number>&, const VocabularyMap&, \
                                   const Rows<Number>&, std::span<std::byte>, Stream)
TOKENTIMING_BY_NUMBER(float);
TOKENTIMING_BY_NUMBER(double);

}  // namespace tokentiming::cuda
