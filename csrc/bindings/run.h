// Work of the core without the GIL, on the CPU or on a GPU.
#pragma once

#include <cstddef>
#include <span>

#include "tensor.h"
#include "tokentiming/cuda.h"

namespace tokentiming::python {

// Calls work() for tensors in CPU memory and work(stream) for tensors on a GPU. The stream is the
// last argument of a function of cuda.h.
template <class Work>
void run(const Place& place, const Work& work) {
  if (place.on_gpu()) {
    const cuda::Stream stream = place.stream();
    const Unlocked unlocked;
    return work(stream);
  }
  const Unlocked unlocked;
  work();
}

// The same with work(workspace, stream) on a GPU, where the workspace has so many bytes.
template <class Work>
void run(const Place& place, std::size_t workspace_bytes, const Work& work) {
  if (!place.on_gpu()) return run(place, [&](const auto&...) { work(); });
  const Scratch scratch(place, workspace_bytes);
  const cuda::Stream stream = place.stream();
  const Unlocked unlocked;
  work(scratch.bytes(), stream);
}

}  // namespace tokentiming::python
