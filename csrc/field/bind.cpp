// Bindings of the hash grid and the field: integers to pointers to params struct to launcher.
#include "base/bind.h"

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "base/workspace.h"

namespace dfn {
namespace {

using Floats = std::vector<double>;
using Ints = std::vector<int64_t>;

GridLayout grid_layout(const Floats& scale, const Ints& resolution, const Ints& offset, int features, bool smooth) {
    const int levels = int(scale.size());
    if (levels < 1 || levels > kMaxLevels || levels * features > kMaxInputs)
        throw std::invalid_argument("layout: too many levels or features");
    if (int(resolution.size()) != levels || int(offset.size()) != levels + 1)
        throw std::invalid_argument("layout: lengths differ");
    GridLayout g{};
    g.levels = levels, g.features = features, g.smooth = smooth;
    for (int i = 0; i < levels; ++i) {
        g.scale[i] = float(scale[i]), g.resolution[i] = uint32_t(resolution[i]);
        g.rows[i] = uint32_t(offset[i + 1] - offset[i]), g.offset[i] = offset[i];
    }
    return g;
}

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

struct Model {  // the arguments that forward and backward share
    GridLayout grid;
    int hidden;
    double bound;
    int blob_kind;
    double blob_strength, blob_radius;
    uintptr_t level_weight, table, W1, b1, W2, b2, shadow;
    bool tensor_cores;

    template <class T>
    FieldModel<T> as() const {
        return {grid, ptr<const T>(level_weight), hidden, T(bound), {blob_kind, T(blob_strength), T(blob_radius)},
            ptr<const T>(table), ptr<const T>(W1), ptr<const T>(b1), ptr<const T>(W2), ptr<const T>(b2),
            ptr<const uint16_t>(shadow), tensor_cores};
    }
};

Model field_model(const Floats& scale, const Ints& resolution, const Ints& offset, int features, bool smooth,
    int hidden, double bound, int blob_kind, double blob_strength, double blob_radius, uintptr_t level_weight,
    uintptr_t table, uintptr_t W1, uintptr_t b1, uintptr_t W2, uintptr_t b2, uintptr_t shadow, bool tensor_cores) {
    if (hidden < 1 || hidden > kMaxHidden) throw std::invalid_argument("hidden: too many units");
    return {grid_layout(scale, resolution, offset, features, smooth), hidden, bound, blob_kind, blob_strength,
        blob_radius, level_weight, table, W1, b1, W2, b2, shadow, tensor_cores};
}

void field_forward_op(bool is_double, const Model& model, uintptr_t x, uintptr_t h, uintptr_t rgb_raw, uintptr_t grad_h,
    int64_t n, uintptr_t count, int device, uintptr_t stream, int threads) {
    with_scalar(is_double, [&](auto tag) {
        using T = decltype(tag);
        Field<T> p{};
        p.model = model.as<T>();
        p.x = ptr<const T>(x), p.h = ptr<T>(h), p.rgb_raw = ptr<T>(rgb_raw), p.grad_h = ptr<T>(grad_h);
        p.n = n, p.count = ptr<const int64_t>(count);
        const Exec e{device, stream, threads};
        DFN_LAUNCH(field_forward, T, p, e);
    });
}

void field_backward_op(bool is_double, const Model& model, uintptr_t x, uintptr_t d_h, uintptr_t d_rgb_raw,
    uintptr_t d_grad_h, uintptr_t grad_table, uintptr_t grad_weights, int64_t n, uintptr_t count, int device,
    uintptr_t stream, int threads) {
    with_scalar(is_double, [&](auto tag) {
        using T = decltype(tag);
        Field<T> p{};
        p.model = model.as<T>();
        p.x = ptr<const T>(x), p.d_h = ptr<const T>(d_h), p.d_rgb_raw = ptr<const T>(d_rgb_raw),
        p.d_grad_h = ptr<const T>(d_grad_h);
        p.grad_table = ptr<T>(grad_table), p.grad_weights = ptr<T>(grad_weights);
        p.n = n, p.count = ptr<const int64_t>(count);
        const Exec e{device, stream, threads};
        DFN_LAUNCH(field_backward, T, p, e);
    });
}

// Zeroes fresh memory of the CPU, on huge pages where the system gives them.
void clear(uintptr_t address, int64_t bytes, int threads) {
    py::gil_scoped_release nogil;
    char* const memory = ptr<char>(address);
    advise_huge(memory, size_t(bytes));
    parallel_for(bytes, threads, [&](int64_t i, int64_t end) { std::fill(memory + i, memory + end, 0); }, 1 << 21);
}

}  // namespace

// A launcher as a callable that takes the params of either scalar type.
#define DFN_CALLABLE(op)                                                         \
    [](const auto& p, const Exec& e) {                                           \
        using T = std::remove_cv_t<std::remove_reference_t<decltype(*p.table)>>; \
        DFN_LAUNCH(op, T, p, e);                                                 \
    }

void bind_field(py::module_& m) {
    def_hashgrid(m, "hashgrid_forward", DFN_CALLABLE(hashgrid_forward));
    def_hashgrid(m, "hashgrid_grad_table", DFN_CALLABLE(hashgrid_grad_table));
    def_hashgrid(m, "hashgrid_grad_x", DFN_CALLABLE(hashgrid_grad_x));
    def_hashgrid(m, "hashgrid_grad_x_backward", DFN_CALLABLE(hashgrid_grad_x_backward));
    m.def("trim", &cpu::trim, "Give back the memory that CPU kernels keep between calls.");
    m.def("clear", &clear, py::arg("address"), py::arg("bytes"), py::arg("threads"));
    py::class_<Model>(m, "FieldModel")
        .def(py::init(&field_model), py::arg("scale"), py::arg("resolution"), py::arg("offset"), py::arg("features"),
            py::arg("smooth"), py::arg("hidden"), py::arg("bound"), py::arg("blob_kind"), py::arg("blob_strength"),
            py::arg("blob_radius"), py::arg("level_weight"), py::arg("table"), py::arg("W1"), py::arg("b1"),
            py::arg("W2"), py::arg("b2"), py::arg("shadow"), py::arg("tensor_cores"));
    m.def("field_forward", &field_forward_op, py::arg("is_double"), py::arg("model"), py::arg("x"), py::arg("h"),
        py::arg("rgb_raw"), py::arg("grad_h"), py::arg("n"), py::arg("count"), py::arg("device"), py::arg("stream"),
        py::arg("threads"));
    m.def("field_backward", &field_backward_op, py::arg("is_double"), py::arg("model"), py::arg("x"), py::arg("d_h"),
        py::arg("d_rgb_raw"), py::arg("d_grad_h"), py::arg("grad_table"), py::arg("grad_weights"), py::arg("n"),
        py::arg("count"), py::arg("device"), py::arg("stream"), py::arg("threads"));
}

}  // namespace dfn
