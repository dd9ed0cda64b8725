// Bindings of the hash grid: integers to pointers to params struct to launcher.
#include "base/bind.h"

#include "hashgrid/bind_layout.h"

namespace dfn {
namespace {

// Every entry point of the hash grid takes the same arguments; a pointer it does not use is 0.
template <class Launch>
void def_hashgrid(py::module_& m, const char* name, Launch launch) {
    m.def(
        name,
        [launch](bool is_double, const Floats& scale, const Ints& resolution, const Ints& offset, int features,
            bool smooth, uintptr_t x, uintptr_t table, uintptr_t grad_y, uintptr_t grad_grad_x, uintptr_t y,
            uintptr_t grad_x, uintptr_t grad_grad_y, uintptr_t grad_table, int64_t n, uintptr_t count, int device,
            uintptr_t stream, int threads) {
            const GridLayout grid = grid_layout(scale, resolution, offset, features, smooth);
            with_scalar(is_double, [&](auto tag) {
                using T = decltype(tag);
                const HashGrid<T> p{grid, ptr<const T>(x), ptr<const T>(table), ptr<const T>(grad_y),
                    ptr<const T>(grad_grad_x), ptr<T>(y), ptr<T>(grad_x), ptr<T>(grad_grad_y), ptr<T>(grad_table), n,
                    ptr<const int64_t>(count)};
                launch(p, Exec{device, stream, threads});
            });
        },
        py::arg("is_double"), py::arg("scale"), py::arg("resolution"), py::arg("offset"), py::arg("features"),
        py::arg("smooth"), py::arg("x"), py::arg("table"), py::arg("grad_y"), py::arg("grad_grad_x"), py::arg("y"),
        py::arg("grad_x"), py::arg("grad_grad_y"), py::arg("grad_table"), py::arg("n"), py::arg("count"),
        py::arg("device"), py::arg("stream"), py::arg("threads"));
}

}  // namespace

// A launcher as a callable that takes the params of either scalar type.
#define DFN_CALLABLE(op)                                                         \
    [](const auto& p, const Exec& e) {                                           \
        using T = std::remove_cv_t<std::remove_reference_t<decltype(*p.table)>>; \
        DFN_LAUNCH(op, T, p, e);                                                 \
    }

void bind_hashgrid(py::module_& m) {
    def_hashgrid(m, "hashgrid_forward", DFN_CALLABLE(hashgrid_forward));
    def_hashgrid(m, "hashgrid_grad_table", DFN_CALLABLE(hashgrid_grad_table));
    def_hashgrid(m, "hashgrid_grad_x", DFN_CALLABLE(hashgrid_grad_x));
    def_hashgrid(m, "hashgrid_grad_x_backward", DFN_CALLABLE(hashgrid_grad_x_backward));
}

}  // namespace dfn
