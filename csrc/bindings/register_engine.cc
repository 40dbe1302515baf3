#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "arrays.h"
#include "encrypted.h"
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

EngineHolder open(std::shared_ptr<Library> library, const std::vector<BmodelArgument>& bmodels,
                  const std::vector<int>& chips, int slots, bool deterministic,
                  std::string embedding, bool greedy) {
  const std::vector<runtime::BmodelSource> sources = sources_of(bmodels);
  const py::gil_scoped_release release;
  const engine::EngineOptions options{slots, deterministic, std::move(embedding), greedy};
  return EngineHolder(new Engine(std::move(library), sources, chips, options));
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

py::array save(const Engine& engine, int slot) {
  const py::ssize_t layers = engine.spec().layers;
  const py::ssize_t rows = engine.length(slot);
  const auto row_bytes = static_cast<py::ssize_t>(engine.kv_row_bytes());
  py::array_t<std::uint8_t> data(std::vector<py::ssize_t>{layers, 2, rows, row_bytes});
  std::uint8_t* target = data.mutable_data();
  {
    const py::gil_scoped_release release;
    engine.save(slot, target);
  }
  return data;
}

py::array watched(const Engine& engine, int slot) {
  const engine::WatchedStates states = engine.watched(slot);
  const std::vector<py::ssize_t> shape = {static_cast<py::ssize_t>(states.layers),
                                          static_cast<py::ssize_t>(states.rows),
                                          static_cast<py::ssize_t>(states.state_bytes)};
  return py::array_t<std::uint8_t>(shape, states.data);
}

void restore(Engine& engine, int slot, const py::array& data, int tokens) {
  const auto* source = checked_data<std::uint8_t>(data, "data", 4);
  const auto row_bytes = static_cast<py::ssize_t>(engine.kv_row_bytes());
  if (data.shape(0) != engine.spec().layers || data.shape(1) != 2 || data.shape(3) != row_bytes) {
    throw py::value_error("data: expected the shape [" + std::to_string(engine.spec().layers) +
                          ", 2, any, " + std::to_string(row_bytes) + "], not " +
                          py::str(data.attr("shape")).cast<std::string>());
  }
  const py::gil_scoped_release release;
  engine.restore(slot, source, static_cast<int>(data.shape(2)), tokens);
}

void encode_image(Engine& engine, int slot, int index, const py::array& pixels, int ratio) {
  const auto* data = checked_data<float>(pixels, "pixels", 4);
  const auto& vision = engine.spec().vision;
  if (!vision.has_value()) throw py::value_error("the model does not look at images");
  const int tiles = vision->tiles_of_ratio(ratio);
  const std::vector<py::ssize_t> wanted = {tiles, vision->channels, vision->image_size,
                                           vision->image_size};
  // A ratio that is none the engine refuses.
  if (tiles > 0 && !std::equal(wanted.begin(), wanted.end(), pixels.shape())) {
    throw py::value_error("pixels: expected the shape " +
                          py::str(py::cast(wanted)).cast<std::string>() + " for aspect ratio " +
                          std::to_string(ratio) + ", not " +
                          py::str(pixels.attr("shape")).cast<std::string>());
  }
  const py::gil_scoped_release release;
  engine.encode_image(slot, index, data, ratio);
}

std::vector<std::pair<int, int>> decode_variants(const SpecView& spec) {
  std::vector<std::pair<int, int>> result;
  for (const engine::DecodeShape& shape : spec.model.decode_variants) {
    result.emplace_back(shape.rows, shape.length);
  }
  return result;
}

void register_vision_spec(py::module_& module) {
  using engine::VisionSpec;
  py::class_<VisionSpec>(module, "VisionSpec", py::is_final())
      .def_readonly("max_images", &VisionSpec::max_images)
      .def_readonly("max_tiles", &VisionSpec::max_tiles)
      .def_readonly("tile_tokens", &VisionSpec::tile_tokens)
      .def_readonly("image_size", &VisionSpec::image_size)
      .def_readonly("channels", &VisionSpec::channels)
      .def_readonly("layers", &VisionSpec::layers);
}

void register_model_spec(py::module_& module) {
  const auto number = [](int ModelSpec::* member) {
    return [member](const SpecView& spec) { return spec.model.*member; };
  };
  py::class_<SpecView>(module, "ModelSpec", py::is_final())
      .def_property_readonly("layers", number(&ModelSpec::layers))
      .def_property_readonly("hidden_size", number(&ModelSpec::hidden_size))
      .def_property_readonly("vocab_size", number(&ModelSpec::vocab_size))
      .def_property_readonly("embedding_rows", number(&ModelSpec::embedding_rows))
      .def_property_readonly("context_length", number(&ModelSpec::context_length))
      .def_property_readonly("max_prompt_length", number(&ModelSpec::max_prompt_length))
      .def_property_readonly("prefill_chunk", number(&ModelSpec::prefill_chunk))
      .def_property_readonly("history_chunk", number(&ModelSpec::history_chunk))
      .def_property_readonly("max_history", number(&ModelSpec::max_history))
      .def_property_readonly("history", [](const SpecView& s) { return s.model.history(); })
      .def_property_readonly("dynamic_prefill",
                             [](const SpecView& s) { return s.model.dynamic_prefill; })
      .def_property_readonly("decode_rows", number(&ModelSpec::decode_rows))
      .def_property_readonly("decode_variants", &decode_variants)
      .def_property_readonly("head", [](const SpecView& s) { return name(s.model.head); })
      .def_property_readonly("kv_heads", number(&ModelSpec::kv_heads))
      .def_property_readonly("head_dim", number(&ModelSpec::head_dim))
      .def_property_readonly("dtype", [](const SpecView& s) { return name(s.model.dtype); })
      .def_property_readonly("kv_bytes_per_slot",
                             [](const SpecView& s) { return s.model.kv_bytes_per_slot; })
      .def_property_readonly("vision", [](const SpecView& s) { return s.model.vision; })
      .def_property_readonly("features", [](const SpecView& s) { return s.model.features; })
      .def_readonly("nets", &SpecView::nets);
}

}  // namespace

void register_engine(py::module_& module) {
  register_vision_spec(module);
  register_model_spec(module);

  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<Engine, EngineHolder>(module, "Engine", py::is_final())
      .def(py::init(&open), py::arg("library"), py::arg("bmodels"), py::kw_only(),
           py::arg("chips") = std::vector<int>{0}, py::arg("slots") = 1,
           py::arg("deterministic") = false, py::arg("embedding") = "", py::arg("greedy") = false)
      .def_property_readonly("spec", &view)
      .def_property_readonly("slots", &Engine::slots)
      .def_property_readonly("launches", &Engine::launches)
      .def_property_readonly("groups", &Engine::groups)
      .def_property_readonly("busy_s", &Engine::busy_s)
      .def("length", &Engine::length, py::arg("slot"))
      .def("prefill", &prefill, py::arg("slot"), py::arg("ids"), py::arg("position"), py::kw_only(),
           py::arg("last") = true)
      .def("decode", &decode, py::arg("slots"), py::arg("ids"))
      .def("copy_prefix", &Engine::copy_prefix, py::arg("source"), py::arg("target"),
           py::arg("tokens"), NoGil())
      .def("save", &save, py::arg("slot"))
      .def("restore", &restore, py::arg("slot"), py::arg("data"), py::arg("tokens"))
      .def("encode_image", &encode_image, py::arg("slot"), py::arg("index"), py::arg("pixels"),
           py::arg("aspect_ratio_id"))
      .def("show_images", &Engine::show_images, py::arg("slot"), py::arg("positions"))
      .def("encoded_images", &Engine::encoded_images, py::arg("slot"))
      .def("watch", &Engine::watch, py::arg("slot"), py::arg("layers"))
      .def("watched", &watched, py::arg("slot"))
      .def_property_readonly("adapter_weights", &Engine::adapter_weights)
      .def(
          "set_adapter_weight",
          [](Engine& engine, const std::string& path, const py::bytes& data) {
            const std::string_view bytes = data;
            engine.set_adapter_weight(path, {bytes.begin(), bytes.end()});
          },
          py::arg("path"), py::arg("data"))
      .def("free", &Engine::free, py::arg("slot"))
      .def("wipe", &Engine::wipe, py::arg("slot"), NoGil())
      .def("close", &Engine::close, NoGil());
}

}  // namespace tpuserve::bindings
