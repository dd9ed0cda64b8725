// Composite on the CPU. float32 runs the vector loops of simd_kernels.h; float64, which checks
// derivatives, the bodies of composite.h.
#include "base/loops.h"
#include "simd_kernels.h"

namespace dfn::cpu {
namespace {

void composite_range(const Composite<float>& p, int64_t begin, int64_t end) { simd_kernels().composite(p, begin, end); }

void composite_range(const Composite<double>& p, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) composite_ray(p, r);
}

void composite_range(const CompositeBackward<float>& p, int64_t begin, int64_t end) {
    simd_kernels().composite_backward(p, begin, end);
}

void composite_range(const CompositeBackward<double>& p, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) composite_ray_backward(p, r);
}

}  // namespace

template <class T>
void composite_forward(const Composite<T>& p, const Exec& e) {
    parallel_for(p.rays, e.threads, [&](int64_t begin, int64_t end) { composite_range(p, begin, end); }, kRays);
}

template <class T>
void composite_backward(const CompositeBackward<T>& p, const Exec& e) {
    const Rows used = rows_in_use(p.forward);
    parallel_for(p.forward.rays, e.threads, [&](int64_t i, int64_t end) { composite_range(p, i, end); }, kRays);
    for_each(p.forward.n - (used.end - used.begin), e, [&](int64_t i) { clear_spare(p, used, i); });
}

DFN_INSTANTIATE_CPU(composite_forward, Composite);
DFN_INSTANTIATE_CPU(composite_backward, CompositeBackward);

}  // namespace dfn::cpu
