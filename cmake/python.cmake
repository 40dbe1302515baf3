# The extension module device_svc._core, and the Python code of the protos in tpuserve.v1.

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)

# A build backend puts pybind11 on the search path; a plain cmake asks the interpreter.
if(NOT pybind11_DIR)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
    OUTPUT_VARIABLE pybind11_hint
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
find_package(pybind11 3 CONFIG REQUIRED HINTS "${pybind11_hint}")

pybind11_add_module(
  _core
  MODULE
  csrc/bindings/module.cc
  csrc/bindings/register_encrypted.cc
  csrc/bindings/register_engine.cc
  csrc/bindings/register_errors.cc
  csrc/bindings/register_library.cc
  csrc/bindings/register_sampler.cc
  csrc/bindings/register_specs.cc)
target_link_libraries(_core PRIVATE tpuserve_core tpuserve_options)
install(TARGETS _core LIBRARY DESTINATION device_svc)

# protos/tpuserve/v1/x.proto -> tpuserve/v1/x_pb2.py, x_pb2_grpc.py, and typed stubs of both
file(GLOB tpuserve_protos CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/protos/tpuserve/v1/*.proto")
if(tpuserve_protos)
  # The plugins are scripts of the package mypy-protobuf, beside the interpreter or on the path of an
  # isolated build.
  cmake_path(GET Python_EXECUTABLE PARENT_PATH python_scripts)
  find_program(PROTOC_GEN_MYPY protoc-gen-mypy HINTS "${python_scripts}" REQUIRED)
  find_program(PROTOC_GEN_MYPY_GRPC protoc-gen-mypy_grpc HINTS "${python_scripts}" REQUIRED)
  set(generated_root "${PROJECT_BINARY_DIR}/generated")
  set(generated_dir "${generated_root}/tpuserve/v1")
  set(generated_files "")
  foreach(proto IN LISTS tpuserve_protos)
    cmake_path(GET proto STEM stem)
    foreach(ending IN ITEMS _pb2.py _pb2.pyi _pb2_grpc.py _pb2_grpc.pyi)
      list(APPEND generated_files "${generated_dir}/${stem}${ending}")
    endforeach()
  endforeach()
  file(CONFIGURE OUTPUT "${generated_dir}/__init__.py"
       CONTENT "\"\"\"Generated from protos/tpuserve/v1.\"\"\"\n")
  file(CONFIGURE OUTPUT "${generated_dir}/py.typed" CONTENT "")
  add_custom_command(
    OUTPUT ${generated_files}
    COMMAND
      "${Python_EXECUTABLE}" -m grpc_tools.protoc "-I${PROJECT_SOURCE_DIR}/protos"
      "--plugin=protoc-gen-mypy=${PROTOC_GEN_MYPY}"
      "--plugin=protoc-gen-mypy_grpc=${PROTOC_GEN_MYPY_GRPC}" "--python_out=${generated_root}"
      "--grpc_python_out=${generated_root}" "--mypy_out=${generated_root}"
      "--mypy_grpc_out=${generated_root}" ${tpuserve_protos}
    DEPENDS ${tpuserve_protos}
    COMMENT "Compiling protos"
    VERBATIM)
  add_custom_target(tpuserve_protos ALL DEPENDS ${generated_files})
  install(DIRECTORY "${generated_dir}" DESTINATION tpuserve)
endif()
