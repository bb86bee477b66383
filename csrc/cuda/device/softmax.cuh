// The online softmax of a row.
#pragma once

#include "columns.cuh"
#include "distributions.cuh"
#include "reduce.cuh"

namespace tokentiming::cuda {

// The state of an online softmax over some logits: their maximum, and the sum of
// 2^((x - maximum) * scale). Source: Milakov, Gimelshein, "Online normalizer calculation for
// softmax", arXiv 1805.02867.
struct SoftmaxState {
  float maximum = -kInfinity;
  double sum = 0.0;

  // False if the logits have no distribution.
  __device__ bool normalise(Normaliser& out) const {
    if (!(sum > 0.0 && sum < INFINITY && maximum < kInfinity)) return false;
    out = {maximum, static_cast<float>(1.0 / sum)};
    return true;
  }
};

__device__ inline SoftmaxState shuffle_xor(const SoftmaxState& mine, unsigned other) {
  return {__shfl_xor_sync(kAllLanes, mine.maximum, other), shuffle_xor(mine.sum, other)};
}

// Merges two states: rescales both sums to the greater maximum. NaN in a sum stays.
struct MergeSoftmax {
  float scale;

  __device__ SoftmaxState operator()(const SoftmaxState& a, const SoftmaxState& b) const {
    const float maximum = a.maximum > b.maximum ? a.maximum : b.maximum;
    return {maximum, a.sum * rescale(a.maximum, maximum) + b.sum * rescale(b.maximum, maximum)};
  }
  __device__ double rescale(float maximum, float common) const {
    return maximum == common ? 1.0 : static_cast<double>(exp2_approx((maximum - common) * scale));
  }
};

// The online softmax of a thread's logits.
struct ThreadSoftmax {
  float scale;
  float maximum = -kInfinity;
  float sum = 0.0f;

  template <class Number>
  __device__ void operator()(const Vector<Number>& vector, int) {
    float x[kVectorSize];
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) x[k] = widen(vector[k]);
    add(x);
  }
  template <class Number>
  __device__ void operator()(Number entry, int) {
    const float x[] = {widen(entry)};
    add(x);
  }

 private:
  template <int kCount>
  __device__ void add(const float (&x)[kCount]) {
    float new_maximum = maximum;
#pragma unroll
    for (int k = 0; k < kCount; ++k) new_maximum = fmaxf(new_maximum, x[k]);
    if (new_maximum > maximum) {
      sum *= exp2_approx((maximum - new_maximum) * scale);
      maximum = new_maximum;
    }
    // The difference is rounded before it is scaled: a fused multiply-add of x * scale would lose
    // the bits that the maximum has in common with x.
    const float shift = maximum == -kInfinity ? 0.0f : maximum;
    float added = 0.0f;
#pragma unroll
    for (int k = 0; k < kCount; ++k) added += exp2_approx((x[k] - shift) * scale);
    sum += added;
  }
};

}  // namespace tokentiming::cuda
