#include "tokentiming/cuda.h"

namespace tokentiming::cuda {

bool is_built() {
#ifdef __CUDACC__
  return true;
#else
  return false;
#endif
}

}  // namespace tokentiming::cuda
