// Adam (Kingma & Ba 2015, algorithm 1), fused: one pass reads a gradient, applies it, and leaves zero behind.
#pragma once
#include "base/hd.h"
#include "base/launch.h"

namespace dfn {

template <class T>
struct Adam {
    T* param;            // in, out (n)
    T* grad;             // in (n), zero afterwards
    T* exp_avg;          // in, out (n): first moment
    T* exp_avg_sq;       // in, out (n): second moment
    int64_t* nonfinite;  // in, out (1): raised by the number of elements that are left out
    int64_t n;
    T beta1, beta2;
    T eps;
    T weight_decay;    // added to the gradient, times the parameter (L2, as in torch.optim.Adam)
    const T* factors;  // in (2): lr / (1 - beta1^step) and 1 / sqrt(1 - beta2^step), read when the kernel runs

    DFN_FIELDS(param, grad, exp_avg, exp_avg_sq, nonfinite, n, beta1, beta2, eps, weight_decay, factors)
};

// The factors, read once: what the loop writes might alias them. One that is NaN, infinite or negative makes the step
// NaN, so that every element is left out: an infinite `inverse_root` alone would pass as an update of zero.
template <class T>
struct AdamFactors {
    T step_size, inverse_root;
};

template <class T>
DFN_HD AdamFactors<T> read_factors(const Adam<T>& p) {
    const T a = p.factors[0], b = p.factors[1];
    const bool ok = a >= T(0) && b > T(0) && (a - a) + (b - b) == T(0);
    return {ok ? a : T(NAN), b};
}

// Returns 1 for an element that is left out: it keeps its value and moments, because one of the three would become NaN
// or infinite, or the second moment is negative. What comes out is checked, not what goes in: it is finite only if the
// gradient, the value, the moments and the factors are, and no square overflows. An infinite `m` shows in `next`, an
// infinite `v` does not. Written without branches: a loop over this body has to vectorise. The order of the two sums
// decides which product a compiler fuses with the sum, and so the last bit.
template <class T>
DFN_HD int adam_element(const Adam<T>& p, AdamFactors<T> f, int64_t i) {
    const T raw = p.grad[i], value = p.param[i], m0 = p.exp_avg[i], v0 = p.exp_avg_sq[i];
    const T g = raw + p.weight_decay * value;
    const T m = (T(1) - p.beta1) * g + p.beta1 * m0;
    const T v = (T(1) - p.beta2) * g * g + p.beta2 * v0;
    const T next = value - f.step_size * m / (std::sqrt(v) * f.inverse_root + p.eps);
    const bool ok = v0 >= (next - next) + (v - v);  // x - x is 0 or NaN
    p.param[i] = ok ? next : value;
    p.exp_avg[i] = ok ? m : m0;
    p.exp_avg_sq[i] = ok ? v : v0;
    p.grad[i] = T(0);
    return ok ? 0 : 1;
}

DFN_DECLARE(adam, Adam)

}  // namespace dfn
