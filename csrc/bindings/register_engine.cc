#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

#include "arrays.h"
#include "register.h"
#include "tpuserve/engine/engine.h"

namespace py = pybind11;

namespace tpuserve::bindings {

using engine::Engine;
using engine::HeadKind;
using engine::HeadRows;
using engine::ModelSpec;
using runtime::Library;

namespace {

// The engine with destruction that may take long and must not hold the GIL.
struct ReleasingDelete {
  void operator()(Engine* engine) const {
    const py::gil_scoped_release release;
    delete engine;
  }
};
using EngineHolder = std::unique_ptr<Engine, ReleasingDelete>;

// ModelSpec as Python sees it: the lengths and names, and the nets beside them.
struct SpecView {
  ModelSpec model;
  std::vector<runtime::Net> nets;
};

SpecView view(const Engine& engine) { return {engine.spec(), engine.nets()}; }

// An array for `rows` results of the head, and where the engine shall put them.
struct HeadArray {
  py::array array;
  HeadRows rows;
};

HeadArray allocate(const ModelSpec& spec, std::size_t rows, bool single) {
  const auto n = static_cast<py::ssize_t>(rows);
  if (spec.head == HeadKind::kArgmax) {
    py::array_t<std::int32_t> tokens(n);
    return {tokens, {nullptr, tokens.mutable_data()}};
  }
  const py::ssize_t vocab = spec.vocab_size;
  py::array_t<float> logits(single ? std::vector<py::ssize_t>{vocab}
                                   : std::vector<py::ssize_t>{n, vocab});
  return {logits, {logits.mutable_data(), nullptr}};
}

EngineHolder open(std::shared_ptr<Library> library, const std::string& bmodel,
                  const std::vector<int>& chips, int slots) {
  const py::gil_scoped_release release;
  return EngineHolder(new Engine(std::move(library), bmodel, chips, slots));
}

std::optional<py::array> prefill(Engine& engine, int slot, const py::array& ids, int position,
                                 bool last) {
  const auto* data = checked_data<std::int32_t>(ids, "ids", 1);
  const auto count = static_cast<std::size_t>(ids.size());
  if (!last) {
    const py::gil_scoped_release release;
    engine.prefill(slot, data, count, position, nullptr);
    return std::nullopt;
  }
  const HeadArray head = allocate(engine.spec(), 1, /*single=*/true);
  {
    const py::gil_scoped_release release;
    engine.prefill(slot, data, count, position, &head.rows);
  }
  return head.array;
}

py::array decode(Engine& engine, const std::vector<int>& slots, const py::array& ids) {
  const auto* data = checked_data<std::int32_t>(ids, "ids", 1);
  if (static_cast<std::size_t>(ids.size()) != slots.size()) {
    throw py::value_error("ids: expected one for each of " + std::to_string(slots.size()) +
                          " slots, not " + std::to_string(ids.size()));
  }
  const HeadArray head = allocate(engine.spec(), slots.size(), /*single=*/false);
  {
    const py::gil_scoped_release release;
    engine.decode(slots, data, head.rows);
  }
  return head.array;
}

void register_model_spec(py::module_& module) {
  const auto number = [](int ModelSpec::* member) {
    return [member](const SpecView& spec) { return spec.model.*member; };
  };
  py::class_<SpecView>(module, "ModelSpec", py::is_final())
      .def_property_readonly("layers", number(&ModelSpec::layers))
      .def_property_readonly("hidden_size", number(&ModelSpec::hidden_size))
      .def_property_readonly("vocab_size", number(&ModelSpec::vocab_size))
      .def_property_readonly("context_length", number(&ModelSpec::context_length))
      .def_property_readonly("max_prompt_length", number(&ModelSpec::max_prompt_length))
      .def_property_readonly("prefill_chunk", number(&ModelSpec::prefill_chunk))
      .def_property_readonly("history", [](const SpecView& s) { return s.model.history(); })
      .def_property_readonly("dynamic_prefill",
                             [](const SpecView& s) { return s.model.dynamic_prefill; })
      .def_property_readonly("head", [](const SpecView& s) { return name(s.model.head); })
      .def_property_readonly("kv_heads", number(&ModelSpec::kv_heads))
      .def_property_readonly("head_dim", number(&ModelSpec::head_dim))
      .def_property_readonly("dtype", [](const SpecView& s) { return name(s.model.dtype); })
      .def_property_readonly("kv_bytes_per_slot",
                             [](const SpecView& s) { return s.model.kv_bytes_per_slot; })
      .def_property_readonly("features", [](const SpecView& s) { return s.model.features; })
      .def_readonly("nets", &SpecView::nets);
}

}  // namespace

void register_engine(py::module_& module) {
  register_model_spec(module);

  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<Engine, EngineHolder>(module, "Engine", py::is_final())
      .def(py::init(&open), py::arg("library"), py::arg("bmodel"), py::kw_only(),
           py::arg("chips") = std::vector<int>{0}, py::arg("slots") = 1)
      .def_property_readonly("spec", &view)
      .def_property_readonly("slots", &Engine::slots)
      .def_property_readonly("launches", &Engine::launches)
      .def("length", &Engine::length, py::arg("slot"))
      .def("prefill", &prefill, py::arg("slot"), py::arg("ids"), py::arg("position"), py::kw_only(),
           py::arg("last") = true)
      .def("decode", &decode, py::arg("slots"), py::arg("ids"))
      .def("copy_prefix", &Engine::copy_prefix, py::arg("source"), py::arg("target"),
           py::arg("tokens"), NoGil())
      .def("free", &Engine::free, py::arg("slot"))
      .def("close", &Engine::close, NoGil());
}

}  // namespace tpuserve::bindings
