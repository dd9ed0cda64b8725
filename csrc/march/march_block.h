// Which of the next samples of a ray are kept, on the CPU: the bits that occupied_at of march.h looks up, a vector of
// samples at a time.
#pragma once
#include "base/simd.h"
#include "march/march.h"

namespace dfn::DFN_SIMD_LEVEL {

#if defined(__SSE2__)
// rounded_product of march.h: with the product in a register of its own, nothing is fused with it.
DFN_HD Floats rounded_product(Floats a, Floats b) {
    Floats product = a * b;
#if defined(__AVX512F__)
    asm("" : "+v"(product));
#else
    asm("" : "+x"(product));
#endif
    return product;
}

// cell_of of march.h, of the points at distances t along one axis.
DFN_HD Ints cells_along(const March<float>& p, const RayWalk<float>& w, Floats t, float o, float d) {
    const Floats x = o + rounded_product(t, splat(d)), low{}, high = splat(float(p.resolution - 1));
    const Floats u = rounded_product(x + p.bound, splat(w.cells_per_unit));
    return truncate(u > low ? (u < high ? u : high) : low);
}

// Bit i: the cell of sample k + i is occupied.
DFN_HD uint32_t occupied_vector(const March<float>& p, const RayWalk<float>& w, int k) {
    Ints sample;
    for (int i = 0; i < kWidth; ++i) sample[i] = k + i;
    const Floats t = w.start + rounded_product(to_floats(sample) + w.jitter, splat(p.step));
    const Ints ix = cells_along(p, w, t, w.o.x, w.d.x), iy = cells_along(p, w, t, w.o.y, w.d.y);
    const Words cell = Words((ix * p.resolution + iy) * p.resolution + cells_along(p, w, t, w.o.z, w.d.z));
    alignas(64) uint32_t at[kWidth];
    std::memcpy(at, &cell, sizeof cell);
    uint32_t bits = 0;
    for (int i = 0; i < kWidth; ++i) bits |= uint32_t(bit_at(p.bitfield, at[i])) << i;
    return bits;
}

DFN_HD uint32_t occupied_ahead(const March<float>& p, const RayWalk<float>& w, int k) {
    uint32_t bits = 0;
    for (int i = 0; i < kLookAhead; i += kWidth) bits |= occupied_vector(p, w, k + i) << i;
    return bits;
}
#else
DFN_HD uint32_t occupied_ahead(const March<float>& p, const RayWalk<float>& w, int k) {
    uint32_t bits = 0;
    for (int i = 0; i < kLookAhead; ++i) {
        const Vec3<float> x = point_at(w, lattice(p, w, k + i));
        const int64_t ix = cell_of(p, w, x.x), iy = cell_of(p, w, x.y), iz = cell_of(p, w, x.z);
        bits |= uint32_t(bit_at(p.bitfield, (ix * p.resolution + iy) * p.resolution + iz)) << i;
    }
    return bits;
}
#endif

}  // namespace dfn::DFN_SIMD_LEVEL
