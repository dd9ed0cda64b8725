// Helpers of the binding files: integers to pointers, scalar type by flag. No logic beyond that.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ops.h"

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

void bind_field(py::module_& m);
void bind_render(py::module_& m);
void bind_ceilings(py::module_& m);

}  // namespace dfn
