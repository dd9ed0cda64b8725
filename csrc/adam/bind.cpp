// Bindings of adam: integers to pointers to params struct to launcher.
#include "base/bind.h"

#include "adam/adam.h"

namespace dfn {
namespace {

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

}  // namespace

void bind_adam(py::module_& m) {
    using py::arg;
    m.def("adam", &adam_op, arg("is_double"), arg("param"), arg("grad"), arg("exp_avg"), arg("exp_avg_sq"),
        arg("nonfinite"), arg("n"), arg("beta1"), arg("beta2"), arg("eps"), arg("weight_decay"), arg("factors"),
        arg("device"), arg("stream"), arg("threads"));
}

}  // namespace dfn
