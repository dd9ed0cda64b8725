// Shade on the CPU. float32 runs the vector loops of simd_kernels.h; float64, which checks
// derivatives, the bodies of shade.h.
#include "base/loops.h"
#include "simd_kernels.h"

namespace dfn::cpu {
namespace {

void shade_range(const Shade<float>& p, int64_t begin, int64_t end) { simd_kernels().shade(p, begin, end); }

void shade_range(const Shade<double>& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) shade_sample(p, i);
}

void shade_range(const ShadeBackward<float>& p, int64_t begin, int64_t end) {
    simd_kernels().shade_backward(p, begin, end);
}

void shade_range(const ShadeBackward<double>& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) shade_sample_backward(p, i);
}

}  // namespace

template <class T>
void shade_forward(const Shade<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count);
    parallel_for(live, e.threads, [&](int64_t begin, int64_t end) { shade_range(p, begin, end); }, kRows);
    for_each(p.n - live, e, [&](int64_t i) { clear_sample(p, live + i); });
}

template <class T>
void shade_backward(const ShadeBackward<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.forward.n, p.forward.count);
    parallel_for(live, e.threads, [&](int64_t begin, int64_t end) { shade_range(p, begin, end); }, kRows);
    for_each(p.forward.n - live, e, [&](int64_t i) { clear_sample_backward(p, live + i); });
}

DFN_INSTANTIATE_CPU(shade_forward, Shade);
DFN_INSTANTIATE_CPU(shade_backward, ShadeBackward);

}  // namespace dfn::cpu
