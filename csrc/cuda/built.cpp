#include "tokentiming/cuda.h"

namespace tokentiming::cuda {

bool is_built() { return true; }

}  // namespace tokentiming::cuda
