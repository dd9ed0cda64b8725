// Bindings of march, occupancy, shade, composite and adam: integers to pointers to params struct to launcher.
#include <vector>

#include "base/bind.h"

namespace dfn {
namespace {

std::vector<uint32_t> philox_words(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
    const Random4 r = philox(key, counter_low, counter_high);
    return {r.v[0], r.v[1], r.v[2], r.v[3]};
}

// A negative seed stands for no randomness.
void march_op(bool is_double, uintptr_t rays_o, uintptr_t rays_d, uintptr_t bitfield, uintptr_t blocks,
    uintptr_t counts, uintptr_t t, uintptr_t ray_id, uintptr_t x, uintptr_t offsets, uintptr_t info, int64_t rays,
    int64_t budget, int resolution, int max_steps, double bound, double near, double step, int64_t seed,
    uintptr_t stream_id, int device, uintptr_t stream, int threads) {
    with_scalar(is_double, [&](auto tag) {
        using T = decltype(tag);
        const March<T> p{ptr<const T>(rays_o), ptr<const T>(rays_d), ptr<const uint8_t>(bitfield), ptr<uint8_t>(blocks),
            ptr<int32_t>(counts), ptr<T>(t), ptr<int32_t>(ray_id), ptr<T>(x), ptr<int32_t>(offsets), ptr<int64_t>(info),
            rays, budget, resolution, max_steps, T(bound), T(near), T(step), uint64_t(seed),
            ptr<const int64_t>(stream_id), seed >= 0};
        const Exec e{device, stream, threads};
        DFN_LAUNCH(march, T, p, e);
    });
}

void occupancy_update_op(uintptr_t grid, uintptr_t bitfield, uintptr_t index, uintptr_t sigma, uintptr_t sums,
    uintptr_t occupied, int64_t cells, int64_t listed, double decay, double threshold, int device, uintptr_t stream,
    int threads) {
    const py::gil_scoped_release nogil;
    const Occupancy<float> p{ptr<float>(grid), ptr<uint8_t>(bitfield), ptr<const int64_t>(index),
        ptr<const float>(sigma), ptr<double>(sums), ptr<int64_t>(occupied), cells, listed, float(decay),
        float(threshold)};
    const Exec e{device, stream, threads};
    DFN_LAUNCH(occupancy_update, float, p, e);
}

void cell_points_op(uintptr_t index, uintptr_t x, int64_t n, int resolution, double bound, int64_t seed,
    int64_t stream_id, int device, uintptr_t stream, int threads) {
    const py::gil_scoped_release nogil;
    const CellPoints<float> p{ptr<const int64_t>(index), ptr<float>(x), n, resolution, float(bound), uint64_t(seed),
        uint64_t(stream_id), seed >= 0};
    const Exec e{device, stream, threads};
    DFN_LAUNCH(cell_points, float, p, e);
}

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

void adam_op(bool is_double, uintptr_t param, uintptr_t grad, uintptr_t exp_avg, uintptr_t exp_avg_sq,
    uintptr_t nonfinite, int64_t n, double beta1, double beta2, double eps, double weight_decay, uintptr_t factors,
    int device, uintptr_t stream, int threads) {
    with_scalar(is_double, [&](auto tag) {
        using T = decltype(tag);
        const Adam<T> p{ptr<T>(param), ptr<T>(grad), ptr<T>(exp_avg), ptr<T>(exp_avg_sq), ptr<int64_t>(nonfinite), n,
            T(beta1), T(beta2), T(eps), T(weight_decay), ptr<const T>(factors)};
        const Exec e{device, stream, threads};
        DFN_LAUNCH(adam, T, p, e);
    });
}

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

}  // namespace

void bind_render(py::module_& m) {
    using py::arg;
    m.def("philox", &philox_words, arg("key"), arg("counter_low"), arg("counter_high"), "Philox4x32-10: four words.");
    m.def("march", &march_op, arg("is_double"), arg("rays_o"), arg("rays_d"), arg("bitfield"), arg("blocks"),
        arg("counts"), arg("t"), arg("ray_id"), arg("x"), arg("offsets"), arg("info"), arg("rays"), arg("budget"),
        arg("resolution"), arg("max_steps"), arg("bound"), arg("near"), arg("step"), arg("seed"), arg("stream_id"),
        arg("device"), arg("stream"), arg("threads"));
    m.def("occupancy_update", &occupancy_update_op, arg("grid"), arg("bitfield"), arg("index"), arg("sigma"),
        arg("sums"), arg("occupied"), arg("cells"), arg("listed"), arg("decay"), arg("threshold"), arg("device"),
        arg("stream"), arg("threads"));
    m.def("cell_points", &cell_points_op, arg("index"), arg("x"), arg("n"), arg("resolution"), arg("bound"),
        arg("seed"), arg("stream_id"), arg("device"), arg("stream"), arg("threads"));
    bind_shade(m);
    bind_composite(m);
    m.def("adam", &adam_op, arg("is_double"), arg("param"), arg("grad"), arg("exp_avg"), arg("exp_avg_sq"),
        arg("nonfinite"), arg("n"), arg("beta1"), arg("beta2"), arg("eps"), arg("weight_decay"), arg("factors"),
        arg("device"), arg("stream"), arg("threads"));
    m.attr("occupancy_scratch") = kSumChunks + 1;
}

}  // namespace dfn
