// Bindings of the field: integers to pointers to params struct to launcher.
#include "base/bind.h"

#include "field/field.h"
#include "hashgrid/bind_layout.h"

namespace dfn {
namespace {

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

}  // namespace

void bind_field(py::module_& m) {
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
