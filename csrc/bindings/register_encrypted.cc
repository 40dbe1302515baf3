#include <stdexcept>
#include <utility>

#include "encrypted.h"
#include "register.h"

namespace py = pybind11;

namespace tpuserve::bindings {

namespace {

// An engine that keeps the function may be destroyed without the GIL.
std::shared_ptr<py::function> keep(py::function function) {
  return {new py::function(std::move(function)), [](py::function* held) {
            const py::gil_scoped_acquire acquire;
            delete held;
          }};
}

std::shared_ptr<runtime::BmodelSource> describe(std::string name, const std::string& path,
                                                const py::bytes& token_prefix,
                                                std::vector<std::uint64_t> block_bytes,
                                                py::function read) {
  auto weights = std::make_shared<runtime::EncryptedWeights>();
  weights->token_prefix = token_prefix;
  weights->block_bytes = block_bytes;
  weights->read = [sizes = std::move(block_bytes), read = keep(std::move(read))](
                      std::size_t block, std::uint8_t* target) {
    const py::gil_scoped_acquire acquire;
    try {
      (*read)(block, py::memoryview::from_memory(target, static_cast<py::ssize_t>(sizes[block])));
    } catch (py::error_already_set& error) {
      // Its text is read here, under the GIL; what leaves knows no Python.
      throw std::runtime_error(py::str(error.value()).cast<std::string>());
    }
  };
  auto source = std::make_shared<runtime::BmodelSource>(path);
  source->name = std::move(name);
  source->weights = std::move(weights);
  return source;
}

}  // namespace

std::vector<runtime::BmodelSource> sources_of(const std::vector<BmodelArgument>& bmodels) {
  std::vector<runtime::BmodelSource> sources;
  for (const BmodelArgument& bmodel : bmodels) {
    if (const auto* path = std::get_if<std::string>(&bmodel)) {
      sources.emplace_back(*path);
    } else {
      sources.push_back(*std::get<1>(bmodel));
    }
  }
  return sources;
}

void register_encrypted(py::module_& module) {
  py::class_<runtime::BmodelSource, std::shared_ptr<runtime::BmodelSource>>(
      module, "EncryptedBmodel", py::is_final())
      .def(py::init(&describe), py::arg("name"), py::arg("path"), py::kw_only(),
           py::arg("token_prefix"), py::arg("block_bytes"), py::arg("read"));
}

}  // namespace tpuserve::bindings
