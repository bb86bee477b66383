// Conventions of all CUDA functions. Each is declared after its CPU function, in the header of the
// operation, in namespace tokentiming::cuda.
//
// Arguments are those of the CPU function; spans and rows point to the memory of one device. A call
// is enqueued on the caller's stream and returns without synchronizing. It allocates nothing and
// may be captured in a CUDA graph. The same arguments give the same result on one device.
//
// The host checks sizes, strides and scalars and throws std::invalid_argument as the CPU function
// does. It does not read device memory. Where the CPU function throws because of values in memory,
// the result is marked instead, as each function documents. No id or offset makes a function read
// or write out of bounds.
//
// `workspace` is memory that only this call uses: at least as many bytes as the function's
// *_workspace returns, at an address that is a multiple of 16. Two calls on one stream may share a
// workspace.
//
// Every function throws std::runtime_error in a build without CUDA, and if a launch fails. Needs
// compute capability 8.0 or later.
#pragma once

namespace tokentiming::cuda {

// The stream that a call is enqueued on.
struct Stream {
  void* handle = nullptr;  // a cudaStream_t
  int device = 0;          // the device that it belongs to
};

// Whether this build has the kernels.
bool is_built();

}  // namespace tokentiming::cuda
