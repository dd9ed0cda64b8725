// Bindings of march: integers to pointers to params struct to launcher.
#include "base/bind.h"

#include "march/march.h"

namespace dfn {
namespace {

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

}  // namespace

void bind_march(py::module_& m) {
    using py::arg;
    m.def("march", &march_op, arg("is_double"), arg("rays_o"), arg("rays_d"), arg("bitfield"), arg("blocks"),
        arg("counts"), arg("t"), arg("ray_id"), arg("x"), arg("offsets"), arg("info"), arg("rays"), arg("budget"),
        arg("resolution"), arg("max_steps"), arg("bound"), arg("near"), arg("step"), arg("seed"), arg("stream_id"),
        arg("device"), arg("stream"), arg("threads"));
}

}  // namespace dfn
