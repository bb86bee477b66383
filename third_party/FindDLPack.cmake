# Finds dlpack.h (DLPack >= 1.2, the first with the C exchange API).
#
# The header travels inside the Python package apache-tvm-ffi, which is asked where it lies.
# -DDLPack_INCLUDE_DIR=<folder that holds dlpack/dlpack.h> overrides the question.
#
# Defines DLPack_FOUND, DLPack_VERSION and the target DLPack::DLPack.

find_package(Python COMPONENTS Interpreter QUIET)

if(NOT DLPack_INCLUDE_DIR AND Python_Interpreter_FOUND)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "import tvm_ffi.libinfo as libinfo; print(libinfo.find_dlpack_include_path())"
    OUTPUT_VARIABLE dlpack_hint
    OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_QUIET)
endif()
find_path(DLPack_INCLUDE_DIR dlpack/dlpack.h HINTS "${dlpack_hint}")

if(DLPack_INCLUDE_DIR)
  file(STRINGS "${DLPack_INCLUDE_DIR}/dlpack/dlpack.h" dlpack_version_lines
       REGEX "#define DLPACK_(MAJOR|MINOR)_VERSION")
  string(REGEX REPLACE ".*MAJOR_VERSION ([0-9]+).*MINOR_VERSION ([0-9]+).*" "\\1.\\2"
         DLPack_VERSION "${dlpack_version_lines}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  DLPack
  REQUIRED_VARS DLPack_INCLUDE_DIR
  VERSION_VAR DLPack_VERSION
  REASON_FAILURE_MESSAGE "install it with: pip install apache-tvm-ffi")

if(DLPack_FOUND AND NOT TARGET DLPack::DLPack)
  add_library(DLPack::DLPack INTERFACE IMPORTED)
  target_include_directories(DLPack::DLPack SYSTEM INTERFACE "${DLPack_INCLUDE_DIR}")
endif()
mark_as_advanced(DLPack_INCLUDE_DIR)
