// Adam on the CPU: adam_element of adam.h, a vector of elements at a time.
#pragma once
#include "adam/adam.h"
#include "base/simd.h"

namespace dfn::DFN_SIMD_LEVEL {
namespace {

// adam_element of adam.h.
int64_t adam(const Adam<float>& shared, int64_t begin, int64_t end) {
    const Adam<float> p = shared;
    const AdamFactors<float> f = read_factors(p);
    const Floats zero{};
    int64_t count = 0, i = begin;
    for (; i + kWidth <= end; i += kWidth) {
        const Floats raw = load(p.grad + i), value = load(p.param + i);
        const Floats m0 = load(p.exp_avg + i), v0 = load(p.exp_avg_sq + i);
        const Floats g = raw + p.weight_decay * value;
        Floats m = p.beta1 * m0 + (1 - p.beta1) * g, v = p.beta2 * v0 + (1 - p.beta2) * g * g;
        Floats next = value - f.step_size * m / (square_root(v) * f.inverse_root + p.eps);
        const Ints ok = v0 >= next * zero + v * zero;  // x * 0 is 0 or NaN
        if (!all(ok)) {                                // rare, and so cheaper than to wait for every `next`
            next = ok ? next : value;
            m = ok ? m : m0;
            v = ok ? v : v0;
            for (int lane = 0; lane < kWidth; ++lane) count += ok[lane] + 1;
        }
        store(p.param + i, next);
        store(p.exp_avg + i, m);
        store(p.exp_avg_sq + i, v);
        store(p.grad + i, zero);
    }
    for (; i < end; ++i) count += adam_element(p, f, i);
    return count;
}

}  // namespace
}  // namespace dfn::DFN_SIMD_LEVEL
