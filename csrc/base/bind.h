// Helpers of the binding files: integers to pointers, scalar type by flag. No logic beyond that.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <type_traits>

#include "base/launch.h"

namespace dfn {

namespace py = pybind11;

template <class T>
T* ptr(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Calls fn(T{}) with T = double or float, without the GIL.
template <class Fn>
void with_scalar(bool is_double, Fn fn) {
    py::gil_scoped_release nogil;
    if (is_double)
        fn(double{});
    else
        fn(float{});
}

#ifdef DFN_CUDA
#define DFN_LAUNCH_CUDA(op, T, p, e)                                  \
    if constexpr (std::is_same_v<T, float>) return cuda::op<T>(p, e); \
    throw std::invalid_argument(#op ": float64 runs on the CPU only")
#else
#define DFN_LAUNCH_CUDA(op, T, p, e) throw std::runtime_error(#op ": this build has no CUDA code")
#endif

// Runs `op` with parameters p of scalar type T where e says; the last statement of a function that returns void.
#define DFN_LAUNCH(op, T, p, e)                      \
    do {                                             \
        if ((e).device < 0) return cpu::op<T>(p, e); \
        DFN_LAUNCH_CUDA(op, T, p, e);                \
    } while (0)

// One per folder.
void bind_adam(py::module_& m);
void bind_base(py::module_& m);
void bind_ceilings(py::module_& m);
void bind_composite(py::module_& m);
void bind_field(py::module_& m);
void bind_hashgrid(py::module_& m);
void bind_march(py::module_& m);
void bind_occupancy(py::module_& m);
void bind_shade(py::module_& m);

}  // namespace dfn
