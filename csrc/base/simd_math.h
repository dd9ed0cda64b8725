// Exponential and logarithm of vectors: relative errors below 2e-7; the same in every lane, so a result does not depend
// on where in a block its sample lies. NaN stays NaN.
#pragma once
#include "base/simd.h"

namespace dfn::DFN_SIMD_LEVEL {

// 2^n for n from -126 to 127.
DFN_HD Floats power_of_two(Ints n) { return (Floats)((n + 127) << 23); }

// e^x = 2^n e^r with |r| <= ln(2) / 2; e^r by its Taylor polynomial of degree 7 (remainder 5e-9). ln(2) in two parts,
// the first of which has few bits: n times it is exact. 2^n in two factors: it may be beyond the floats.
DFN_HD Floats exponential(Floats x) {
    const Floats low = splat(-104.0f), high = splat(89.0f);  // 0 and infinity from here on
    const Floats inside = x > low ? (x < high ? x : high) : low;
    const Floats scaled = inside * 1.44269504f;
    const Ints n = truncate(scaled + (scaled < 0.0f ? splat(-0.5f) : splat(0.5f)));
    const Floats k = to_floats(n), r = (inside - k * 0.693359375f) + k * 2.12194440e-4f;
    Floats p = 1.0f / 5040 * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    const Ints half = n >> 1;
    const Floats e = p * power_of_two(half) * power_of_two(n - half);
    return x == x ? e : x;
}

// ln(1 + z) for z in [0, 1]: 2 artanh(s), s = z / (2 + z) <= 1/3, by its series (remainder 3e-9 of it).
DFN_HD Floats log_one_plus(Floats z) {
    const Floats s = z / (2.0f + z), ss = s * s;
    Floats p = 2.0f / 15 * ss + 2.0f / 13;
    p = p * ss + 2.0f / 11;
    p = p * ss + 2.0f / 9;
    p = p * ss + 2.0f / 7;
    p = p * ss + 2.0f / 5;
    p = p * ss + 2.0f / 3;
    return 2.0f * s + s * ss * p;
}

DFN_HD Floats logistic(Floats v) { return 1.0f / (1.0f + exponential(-v)); }

}  // namespace dfn::DFN_SIMD_LEVEL
