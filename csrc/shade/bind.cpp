// Bindings of shade: integers to pointers to params struct to launcher.
#include "base/bind.h"

#include "shade/shade.h"

namespace dfn {
namespace {

struct ShadeInputs {  // the arguments that forward and backward share
    uintptr_t h, rgb_raw, grad_h, x, ray_id, view, count;
    int64_t n, views, rays_per_view;
    double eps;
    bool exp_density;

    template <class T>
    Shade<T> as(uintptr_t sigma, uintptr_t rgb, uintptr_t normal) const {
        return {ptr<const T>(h), ptr<const T>(rgb_raw), ptr<const T>(grad_h), ptr<const T>(x),
            ptr<const int32_t>(ray_id), ptr<const float>(view), ptr<const int64_t>(count), ptr<T>(sigma), ptr<T>(rgb),
            ptr<T>(normal), n, views, rays_per_view, T(eps), exp_density};
    }
};

void shade_forward_op(bool is_double, const ShadeInputs& inputs, uintptr_t sigma, uintptr_t rgb, uintptr_t normal,
    int device, uintptr_t stream, int threads) {
    with_scalar(is_double, [&](auto tag) {
        using T = decltype(tag);
        const Shade<T> p = inputs.as<T>(sigma, rgb, normal);
        const Exec e{device, stream, threads};
        DFN_LAUNCH(shade_forward, T, p, e);
    });
}

void shade_backward_op(bool is_double, const ShadeInputs& inputs, uintptr_t d_sigma, uintptr_t d_rgb,
    uintptr_t d_normal, uintptr_t d_h, uintptr_t d_rgb_raw, uintptr_t d_grad_h, int device, uintptr_t stream,
    int threads) {
    with_scalar(is_double, [&](auto tag) {
        using T = decltype(tag);
        const ShadeBackward<T> p{inputs.as<T>(0, 0, 0), ptr<const T>(d_sigma), ptr<const T>(d_rgb),
            ptr<const T>(d_normal), ptr<T>(d_h), ptr<T>(d_rgb_raw), ptr<T>(d_grad_h)};
        const Exec e{device, stream, threads};
        DFN_LAUNCH(shade_backward, T, p, e);
    });
}

}  // namespace

void bind_shade(py::module_& m) {
    using py::arg;
    py::class_<ShadeInputs>(m, "ShadeInputs")
        .def(py::init([](uintptr_t h, uintptr_t rgb_raw, uintptr_t grad_h, uintptr_t x, uintptr_t ray_id,
                          uintptr_t view, uintptr_t count, int64_t n, int64_t views, int64_t rays_per_view, double eps,
                          bool exp_density) {
            return ShadeInputs{h, rgb_raw, grad_h, x, ray_id, view, count, n, views, rays_per_view, eps, exp_density};
        }),
            arg("h"), arg("rgb_raw"), arg("grad_h"), arg("x"), arg("ray_id"), arg("view"), arg("count"), arg("n"),
            arg("views"), arg("rays_per_view"), arg("eps"), arg("exp_density"));
    m.def("shade_forward", &shade_forward_op, arg("is_double"), arg("inputs"), arg("sigma"), arg("rgb"), arg("normal"),
        arg("device"), arg("stream"), arg("threads"));
    m.def("shade_backward", &shade_backward_op, arg("is_double"), arg("inputs"), arg("d_sigma"), arg("d_rgb"),
        arg("d_normal"), arg("d_h"), arg("d_rgb_raw"), arg("d_grad_h"), arg("device"), arg("stream"), arg("threads"));
}

}  // namespace dfn
