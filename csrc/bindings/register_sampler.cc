#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "arrays.h"
#include "register.h"
#include "tpuserve/errors.h"
#include "tpuserve/sampler/sampler.h"

namespace py = pybind11;

namespace tpuserve::bindings {

using sampler::Sampled;
using sampler::Sampler;
using sampler::SamplingParams;
using sampler::TokenMask;

namespace {

std::uint64_t checked_seed(const py::int_& seed) {
  const std::uint64_t value = PyLong_AsUnsignedLongLong(seed.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw py::value_error("seed = " + py::str(seed).cast<std::string>() +
                          ": expected 0 to 18446744073709551615");
  }
  return value;
}

SamplingParams make_params(double temperature, int top_k, double top_p, double min_p,
                           double repetition_penalty, double presence_penalty,
                           double frequency_penalty, int penalty_window,
                           std::map<std::int32_t, double> logit_bias, const py::int_& seed,
                           int logprobs, std::vector<std::int32_t> banned_until_min_tokens,
                           int min_tokens) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  params.repetition_penalty = repetition_penalty;
  params.presence_penalty = presence_penalty;
  params.frequency_penalty = frequency_penalty;
  params.penalty_window = penalty_window;
  params.logit_bias = std::move(logit_bias);
  params.seed = checked_seed(seed);
  params.logprobs = logprobs;
  params.banned_until_min_tokens = std::move(banned_until_min_tokens);
  params.min_tokens = min_tokens;
  params.validate();
  return params;
}

std::unique_ptr<Sampler> make_sampler(const SamplingParams& params, int vocab_size,
                                      const py::array& prompt) {
  const auto* ids = checked_data<std::int32_t>(prompt, "prompt", 1);
  return std::make_unique<Sampler>(params, vocab_size, ids,
                                   static_cast<std::size_t>(prompt.size()));
}

// One for each sampler; an empty list is none for all.
std::vector<TokenMask> checked_masks(const std::vector<std::optional<py::array>>& masks,
                                     std::size_t samplers, std::size_t width) {
  std::vector<TokenMask> result(samplers);
  if (masks.empty()) return result;
  if (masks.size() != samplers) {
    throw py::value_error("masks: expected one for each of " + std::to_string(samplers) +
                          " samplers, not " + std::to_string(masks.size()));
  }
  const std::size_t words = (width + 31) / 32;
  for (std::size_t i = 0; i < samplers; ++i) {
    if (!masks[i].has_value()) continue;
    result[i].words = checked_data<std::uint32_t>(*masks[i], "mask", 1);
    if (static_cast<std::size_t>(masks[i]->size()) != words) {
      throw py::value_error("mask: expected " + std::to_string(words) + " words, not " +
                            std::to_string(masks[i]->size()));
    }
  }
  return result;
}

// A row that cannot be drawn from is one request's trouble: the others get their tokens.
Sampled draw(Sampler& sampler, const float* row, TokenMask mask, std::size_t width) {
  try {
    sampler::check_row(row, width);
    return sampler.draw(row, mask);
  } catch (const LaunchError& error) {
    Sampled failed;
    failed.token = sampler::kNoToken;
    failed.error = error.what();
    return failed;
  }
}

std::vector<Sampled> sample(const py::array& logits, const std::vector<Sampler*>& samplers,
                            const std::vector<std::optional<py::array>>& masks) {
  const auto* rows = checked_data<float>(logits, "logits", 2);
  if (static_cast<std::size_t>(logits.shape(0)) != samplers.size()) {
    throw py::value_error("logits: expected one row for each of " +
                          std::to_string(samplers.size()) + " samplers, not " +
                          std::to_string(logits.shape(0)));
  }
  for (const Sampler* sampler : samplers) {
    if (sampler == nullptr) throw py::value_error("samplers: expected Sampler, not None");
    if (sampler->vocab_size() != logits.shape(1)) {
      throw py::value_error("logits: expected rows of " + std::to_string(sampler->vocab_size()) +
                            ", not " + std::to_string(logits.shape(1)));
    }
  }
  const auto width = static_cast<std::size_t>(logits.shape(1));
  const std::vector<TokenMask> row_masks = checked_masks(masks, samplers.size(), width);
  const py::gil_scoped_release release;
  std::vector<Sampled> result;
  result.reserve(samplers.size());
  for (std::size_t i = 0; i < samplers.size(); ++i) {
    result.push_back(draw(*samplers[i], rows + i * width, row_masks[i], width));
  }
  return result;
}

}  // namespace

void register_sampler(py::module_& module) {
  py::class_<SamplingParams>(module, "SamplingParams", py::is_final())
      .def(py::init(&make_params), py::kw_only(), py::arg("temperature") = 1.0,
           py::arg("top_k") = 0, py::arg("top_p") = 1.0, py::arg("min_p") = 0.0,
           py::arg("repetition_penalty") = 1.0, py::arg("presence_penalty") = 0.0,
           py::arg("frequency_penalty") = 0.0, py::arg("penalty_window") = 0,
           py::arg("logit_bias") = std::map<std::int32_t, double>{}, py::arg("seed") = 0,
           py::arg("logprobs") = -1,
           py::arg("banned_until_min_tokens") = std::vector<std::int32_t>{},
           py::arg("min_tokens") = 0);

  py::class_<Sampled>(module, "Sampled", py::is_final())
      .def_readonly("token", &Sampled::token)
      .def_readonly("error", &Sampled::error)
      .def_readonly("logprob", &Sampled::logprob)
      .def_readonly("top", &Sampled::top);

  py::class_<Sampler>(module, "Sampler", py::is_final())
      .def(py::init(&make_sampler), py::arg("params"), py::arg("vocab_size"), py::arg("prompt"))
      .def("accept", &Sampler::accept, py::arg("token"))
      .def_property_readonly("generated", &Sampler::generated);

  module.def("sample", &sample, py::arg("logits"), py::arg("samplers"),
             py::arg("masks") = std::vector<std::optional<py::array>>{});
}

}  // namespace tpuserve::bindings
