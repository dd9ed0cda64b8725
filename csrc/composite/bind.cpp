// Bindings of composite: integers to pointers to params struct to launcher.
#include "base/bind.h"

#include "composite/composite.h"

namespace dfn {
namespace {

struct CompositeArguments {  // inputs and outputs of forward, which backward reads again
    uintptr_t sigma, rgb, normal, t, offsets, rays_d, count, color, opacity, depth, normals, orient;
    int64_t rays, n;
    double step;

    template <class T>
    Composite<T> as() const {
        return {ptr<const T>(sigma), ptr<const T>(rgb), ptr<const T>(normal), ptr<const T>(t),
            ptr<const int32_t>(offsets), ptr<const T>(rays_d), ptr<const int64_t>(count), ptr<T>(color),
            ptr<T>(opacity), ptr<T>(depth), ptr<T>(normals), ptr<T>(orient), rays, n, T(step)};
    }
};

void composite_forward_op(
    bool is_double, const CompositeArguments& arguments, int device, uintptr_t stream, int threads) {
    with_scalar(is_double, [&](auto tag) {
        using T = decltype(tag);
        const Composite<T> p = arguments.as<T>();
        const Exec e{device, stream, threads};
        DFN_LAUNCH(composite_forward, T, p, e);
    });
}

void composite_backward_op(bool is_double, const CompositeArguments& arguments, uintptr_t d_color, uintptr_t d_opacity,
    uintptr_t d_depth, uintptr_t d_normals, uintptr_t d_orient, uintptr_t d_sigma, uintptr_t d_rgb, uintptr_t d_normal,
    int device, uintptr_t stream, int threads) {
    with_scalar(is_double, [&](auto tag) {
        using T = decltype(tag);
        const CompositeBackward<T> p{arguments.as<T>(), ptr<const T>(d_color), ptr<const T>(d_opacity),
            ptr<const T>(d_depth), ptr<const T>(d_normals), ptr<const T>(d_orient), ptr<T>(d_sigma), ptr<T>(d_rgb),
            ptr<T>(d_normal)};
        const Exec e{device, stream, threads};
        DFN_LAUNCH(composite_backward, T, p, e);
    });
}

}  // namespace

void bind_composite(py::module_& m) {
    using py::arg;
    py::class_<CompositeArguments>(m, "CompositeArguments")
        .def(py::init([](uintptr_t sigma, uintptr_t rgb, uintptr_t normal, uintptr_t t, uintptr_t offsets,
                          uintptr_t rays_d, uintptr_t count, uintptr_t color, uintptr_t opacity, uintptr_t depth,
                          uintptr_t normals, uintptr_t orient, int64_t rays, int64_t n, double step) {
            return CompositeArguments{
                sigma, rgb, normal, t, offsets, rays_d, count, color, opacity, depth, normals, orient, rays, n, step};
        }),
            arg("sigma"), arg("rgb"), arg("normal"), arg("t"), arg("offsets"), arg("rays_d"), arg("count"),
            arg("color"), arg("opacity"), arg("depth"), arg("normals"), arg("orient"), arg("rays"), arg("n"),
            arg("step"));
    m.def("composite_forward", &composite_forward_op, arg("is_double"), arg("arguments"), arg("device"), arg("stream"),
        arg("threads"));
    m.def("composite_backward", &composite_backward_op, arg("is_double"), arg("arguments"), arg("d_color"),
        arg("d_opacity"), arg("d_depth"), arg("d_normals"), arg("d_orient"), arg("d_sigma"), arg("d_rgb"),
        arg("d_normal"), arg("device"), arg("stream"), arg("threads"));
}

}  // namespace dfn
