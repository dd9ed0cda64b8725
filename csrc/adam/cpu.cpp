// Adam on the CPU. float32 runs the vector loops of simd_kernels.h; float64, which checks
// derivatives, the bodies of adam.h.
#include "base/loops.h"
#include "simd_kernels.h"

namespace dfn::cpu {
namespace {

int64_t adam_range(const Adam<float>& p, int64_t begin, int64_t end) { return simd_kernels().adam(p, begin, end); }

int64_t adam_range(const Adam<double>& p, int64_t begin, int64_t end) {
    const AdamFactors<double> f = read_factors(p);
    int64_t bad = 0;
    for (int64_t i = begin; i < end; ++i) bad += adam_element(p, f, i);
    return bad;
}

}  // namespace

template <class T>
void adam(const Adam<T>& p, const Exec& e) {
    std::atomic<int64_t> bad{0};
    parallel_for(p.n, e.threads, [&](int64_t begin, int64_t end) { bad += adam_range(p, begin, end); }, 1 << 14);
    *p.nonfinite += bad;
}

DFN_INSTANTIATE_CPU(adam, Adam);

}  // namespace dfn::cpu
