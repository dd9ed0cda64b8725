// The field on the CPU for a block of samples: the mathematics of field.h, structure of arrays.
#pragma once
#include "base/rows_block.h"
#include "base/simd_math.h"
#include "field/dense.h"
#include "hashgrid/hashgrid_block.h"

namespace dfn::DFN_SIMD_LEVEL {

// Coordinates, zeros in the inputs that no level writes (those of weight 0, and the padding), and v.
DFN_HD void field_place_block(const Field<float>& p, int64_t begin, int live, int inputs, const Block& b) {
    const FieldModel<float>& m = p.model;
    place_block(p.x, begin, live, m.bound, b);
    for (int k = 0; k < inputs; ++k) {
        const int level = k / m.grid.features;
        if (level < m.grid.levels && m.level_weight[level] != 0) continue;
        std::memset(b.input(k), 0, b.planes * kLanes * sizeof(float));
    }
    if (b.planes != kTangent) return;
    const float per_unit = 1 / (2 * m.bound);
    for (int i = 0; i < kLanes; ++i) {
        const Vec3<float> v = i < live ? load3(p.d_grad_h, begin + i) : Vec3<float>{};
        b.v(0)[i] = v.x * per_unit;
        b.v(1)[i] = v.y * per_unit;
        b.v(2)[i] = v.z * per_unit;
    }
}

// s.grad = J^T q
DFN_HD void gradient_block(const Block& b, int inputs, Scratch& s) {
    for (int i = 0; i < kLanes; i += kWidth) {
        Vec3<Floats> g{};
        for (int k = 0; k < inputs; ++k) {
            const Floats q = load(&s.q[k][i]);
            g.x += q * load(b.input(k, 1) + i);
            g.y += q * load(b.input(k, 2) + i);
            g.z += q * load(b.input(k, 3) + i);
        }
        store(&s.grad[0][i], g.x);
        store(&s.grad[1][i], g.y);
        store(&s.grad[2][i], g.z);
    }
}

// blob_density of field.h.
DFN_HD Floats blob_block(const Blob<float>& b, Vec3<Floats> x, Vec3<Floats>& grad) {
    const Floats rr = dot(x, x);
    Floats value{}, slope{};
    if (b.kind == kBlobGaussian) {
        const float inverse = 1 / (b.radius * b.radius);
        value = b.strength * exponential(-0.5f * rr * inverse);
        slope = -value * inverse;
    } else if (b.kind == kBlobCone) {
        const Floats r = square_root(rr + 1e-8f);
        value = b.strength * (1.0f - r / b.radius);
        slope = -b.strength / (b.radius * r);
    }
    grad = {slope * x.x, slope * x.y, slope * x.z};
    return value;
}

// Rows [begin, begin + live) of the outputs.
DFN_HD void field_forward_block(
    const Field<float>& p, const PackedNetwork& w, int64_t begin, int live, const Block& b, Scratch& s) {
    const int64_t row = b.planes * kLanes;
    hidden_block(w, b.input(0), row, s);
    multiply<false>(kOutputs, w.hidden, kLanes, w.W2, w.hidden, 1, s.fired[0], kLanes, s.o[0], kLanes);
    if (p.grad_h) {
        multiply<false>(w.inputs, w.hidden, kLanes, w.W1_density, 1, w.inputs, s.mask[0], kLanes, s.q[0], kLanes);
        gradient_block(b, p.model.grid.levels * p.model.grid.features, s);
    }
    if (!p.grad_h) {
        Vec3<float> bump;
        for (int i = 0; i < live; ++i)
            p.h[begin + i] = s.o[0][i] + w.b2[0] + blob_density(p.model.blob, load3(p.x, begin + i), bump);
        return;
    }
    alignas(64) Row x[3], rgb_raw[3], grad_h[3];
    split3(p.x, begin, live, x);
    const float per_unit = 1 / (2 * p.model.bound);
    for (int i = 0; i < kLanes; i += kWidth) {
        Vec3<Floats> bump;
        store(&s.o[0][i], load(&s.o[0][i]) + w.b2[0] + blob_block(p.model.blob, load_rows(x, i), bump));
        for (int c = 0; c < 3; ++c) store(&rgb_raw[c][i], load(&s.o[1 + c][i]) + w.b2[1 + c]);
        const Vec3<Floats> slope{load(&s.grad[0][i]), load(&s.grad[1][i]), load(&s.grad[2][i])};
        store_rows(grad_h, i, Vec3<Floats>{per_unit * slope.x, per_unit * slope.y, per_unit * slope.z} + bump);
    }
    store_row(s.o[0], begin, live, p.h);
    join3(rgb_raw, begin, live, p.rgb_raw);
    join3(grad_h, begin, live, p.grad_h);
}

// Adds to the network's gradient and leaves de and q instead of e and t, for the scatter. The normal path of W2's
// first row is sum m (W1 u) = W1 . sum m u, unit by unit, so that no product of its own is needed: g.fired holds
// sum m u^T.
DFN_HD void field_backward_block(const Field<float>& p, const PackedNetwork& w, int64_t begin, int live, const Block& b,
    Scratch& s, const NetworkGradient& g) {
    for (int i = 0; i < kLanes; ++i) {
        const Vec3<float> d = i < live ? load3(p.d_rgb_raw, begin + i) : Vec3<float>{};
        s.d[0][i] = i < live ? p.d_h[begin + i] : 0;
        s.d[1][i] = d.x;
        s.d[2][i] = d.y;
        s.d[3][i] = d.z;
    }
    float *const e = b.input(0), *const t = b.input(0, 1);
    const int64_t row = b.planes * kLanes;
    hidden_block(w, e, row, s);
    output_backward_block(w, s, g);
    add_outer_product(w, s.dz, e, row, s, g.dz);
    add_outer_product(w, s.mask, t, row, s, g.fired);
    multiply<false>(w.inputs, w.hidden, kLanes, w.W1, 1, w.inputs, s.dz[0], kLanes, e, row);
    multiply<false>(w.inputs, w.hidden, kLanes, w.W1_density, 1, w.inputs, s.mask[0], kLanes, t, row);
}

}  // namespace dfn::DFN_SIMD_LEVEL
