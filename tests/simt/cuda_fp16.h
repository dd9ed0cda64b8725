// CUDA's float16 as far as csrc/*.cu reads it: found instead of the toolkit's header.
#pragma once
#include <cmath>
#include <cstdint>

#include "cuda_runtime.h"

struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

inline float __half2float(__half h) {
    const int exponent = h.bits >> 10 & 31, mantissa = h.bits & 1023;
    const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                       : exponent     ? std::ldexp(float(1024 + mantissa), exponent - 25)
                                      : std::ldexp(float(mantissa), -24);
    return h.bits >> 15 ? -size : size;
}
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
