#include "tokentiming/probabilities.h"

#include <algorithm>

#include "distribution.h"
#include "parallel.h"
#include "probabilities_checks.h"

namespace tokentiming {

template <class Number>
void probabilities(const Distributions& rows, double temperature, const Rows<Number>& out,
                   const char* function) {
  check_probabilities(rows, temperature, out.rows, out.columns, function);
  const char* name = rows.is_logits ? "draft_logits" : "draft_probs";
  parallel_for(out.rows, 1, [&](std::size_t r) {
    Distribution<Number> row(rows, r, temperature, name, function);
    if (rows.is_logits) {
      for (std::size_t block = 0; block < row.blocks(); ++block) row.reduce_block(block);
      row.normalise();
    }
    Block<Number> buffer;
    for (std::size_t block = 0; block < row.blocks(); ++block) {
      const Number* entries = row.probabilities(block, buffer.data());
      std::copy_n(entries, row.count(block), out[r] + block * kBlock);
    }
  });
}

template void probabilities(const Distributions&, double, const Rows<float>&, const char*);
template void probabilities(const Distributions&, double, const Rows<double>&, const char*);

}  // namespace tokentiming
