#include "tokentiming/sample.h"

#include "noise.h"
#include "operations.h"
#include "rows.h"
#include "run.h"
#include "scalars.h"

namespace tokentiming::python {
namespace {

constexpr const char* kSample = "sample";
constexpr const char* kLogNoise = "log_noise";

void sample_tensors(py::handle logits_object, py::handle keys_object, py::handle seed_object,
                    py::handle states_object, py::handle out_object) {
  Place place;
  const Tensor logits(logits_object, kSample, "logits", &place);
  const Tensor keys(keys_object, kSample, "keys", &place);
  const Tensor states(states_object, kSample, "states", &place);
  const Tensor out(out_object, kSample, "out", &place);
  logits.require_dimensions(2, "[R, V]");
  out.require_dimensions(1, "[R]");
  const auto token_keys = as_keys(keys);
  const auto draws = as_states(states);
  const auto ids = out.writable_elements<std::int64_t>();
  require_apart({&out}, {&logits, &keys, &states});
  const std::uint64_t seed = Scalar(seed_object, kSample, "seed").as_uint64();

  with_float_type(logits, [&]<class Logit>(Logit) {
    const auto rows = rows_of<Logit>(logits);
    using cuda::sample;
    using tokentiming::sample;
    run(place, cuda::sample_workspace(rows.rows, token_keys.size()),
        [&](const auto&... on_gpu) { sample(rows, token_keys, seed, draws, ids, on_gpu...); });
  });
}

void log_noise_tensors(py::handle keys_object, py::handle seed_object, py::handle states_object,
                       py::handle out_object) {
  Place place;
  const Tensor keys(keys_object, kLogNoise, "keys", &place);
  const Tensor states(states_object, kLogNoise, "states", &place);
  const Tensor out(out_object, kLogNoise, "out", &place);
  out.require_dimensions(2, "[R, N]");
  const auto token_keys = as_keys(keys);
  const auto draws = as_states(states);
  const auto values = out.writable_elements<double>();
  require_apart({&out}, {&keys, &states});
  const std::uint64_t seed = Scalar(seed_object, kLogNoise, "seed").as_uint64();
  if (values.size() != token_keys.size() * draws.size()) out.refuse("must be [R, N]");
  using cuda::log_noise;
  using tokentiming::log_noise;
  run(place, [&](const auto&... on_gpu) { log_noise(token_keys, seed, draws, values, on_gpu...); });
}

const Operation kSampleBinding([](py::module_& module) {
  module.def("sample", sample_tensors);
  module.def("log_noise", log_noise_tensors);
});

}  // namespace

}  // namespace tokentiming::python
