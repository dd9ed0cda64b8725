// The field: hash grid, level weights, Linear, ReLU, Linear: pre-activation density h, raw colour, and dh/dx.
//
//   e = level_weight * enc((x + bound) / (2 bound)),  z = W1 e + b1,  m = [z > 0],  o = W2 (m z) + b2
//   h = o_0 + blob(x),  rgb_raw = o_1..3,  q = W1^T (m w2_0),  grad_h = J^T q + blob'(x),  J = de/dx
//
// Gradient, given d_o (4) and v = d_grad_h; u = J v, a = m (W1 u), dz = m (W2^T d_o):
//   dW2 = d_o (m z)^T, row 0 += a;  dW1 = dz e^T + (m w2_0) u^T;  db1 = dz;  db2 = d_o
//   table, per corner: w_c de + (grad w_c . v) q with de = W1^T dz: the value and the normal path in one scatter.
// No other terms: ReLU has no second derivative, and x gets no gradient. All gradients are accumulated (+=).
#pragma once
#include "hashgrid/hashgrid.h"

namespace dfn {

constexpr int kMaxHidden = 128;
constexpr int kOutputs = 4;  // h, r, g, b

enum BlobKind { kBlobNone = 0, kBlobGaussian = 1, kBlobCone = 2 };

template <class T>
struct Blob {  // a bump of density at the origin, world units
    int kind;
    T strength, radius;
};

template <class T>
struct FieldModel {
    GridLayout grid;
    const T* level_weight;  // (levels), read when the kernel runs; 0 = the level is skipped
    int hidden;
    T bound;  // half edge of the scene cube
    Blob<T> blob;
    const T* table;          // (entries, features)
    const T* W1;             // (hidden, levels * features)
    const T* b1;             // (hidden)
    const T* W2;             // (4, hidden)
    const T* b2;             // (4)
    const uint16_t* shadow;  // (entries, features) float16, read instead of the table; or null. CUDA, usual shapes
    bool tensor_cores;       // products with W1 on tensor cores, factors of 16 bits of mantissa. CUDA, usual shapes

    DFN_FIELDS(grid, level_weight, hidden, bound, blob.kind, blob.strength, blob.radius, table, W1, b1, W2, b2, shadow,
        tensor_cores)
};

template <class T>
struct Field {
    FieldModel<T> model;
    const T* x;          // in   (n, 3), world
    T* h;                // out  (n)
    T* rgb_raw;          // out  (n, 3), or null with grad_h: density only
    T* grad_h;           // out  (n, 3)
    const T* d_h;        // in   (n)
    const T* d_rgb_raw;  // in   (n, 3)
    const T* d_grad_h;   // in   (n, 3)
    T* grad_table;       // +=   (entries, features)
    T* grad_weights;     // +=   W1, b1, W2, b2 one after the other
    int64_t n;
    const int64_t* count;  // in (1), valid leading rows, or null

    DFN_FIELDS(model, x, h, rgb_raw, grad_h, d_h, d_rgb_raw, d_grad_h, grad_table, grad_weights, n, count)
};

template <class T>
DFN_HD Vec3<T> to_unit_cube(Vec3<T> x, T bound) {
    const T size = T(2) * bound;
    return {(x.x + bound) / size, (x.y + bound) / size, (x.z + bound) / size};
}

// Density bump: gaussian strength * exp(-r^2 / (2 radius^2)) (DreamFusion, appendix A.2), or cone
// strength * (1 - r / radius) (Magic3D), its tip rounded off over 1e-4 so that it has a gradient everywhere.
template <class T>
DFN_HD T blob_density(const Blob<T>& b, Vec3<T> x, Vec3<T>& grad) {
    const T rr = dot(x, x);
    T value = T(0), slope = T(0);  // grad = slope x
    if (b.kind == kBlobGaussian) {
        const T inverse = T(1) / (b.radius * b.radius);
        value = b.strength * std::exp(T(-0.5) * rr * inverse);
        slope = -value * inverse;
    } else if (b.kind == kBlobCone) {
        const T r = std::sqrt(rr + T(1e-8));
        value = b.strength * (T(1) - r / b.radius);
        slope = -b.strength / (b.radius * r);
    }
    grad = slope * x;
    return value;
}

// The body of one sample. e, t, q, d are this sample's rows of the inputs' size, element k at [k * stride]: private
// memory on the CPU, a column of shared memory on the GPU.

// e = weighted encoding at unit coordinate u; and t = its derivative along v (world units), unless t is null.
template <class T>
DFN_HD void encode_sample(const FieldModel<T>& m, Vec3<T> u, Vec3<T> v, T* e, T* t, int stride) {
    const int F = m.grid.features;
    const T per_unit = T(1) / (T(2) * m.bound);
    for (int level = 0; level < m.grid.levels; ++level) {
        const T weight = m.level_weight[level];
        const Cell<T> cell = find_cell(m.grid, level, u);
        for (int f = 0; f < F; ++f) {
            const int k = (level * F + f) * stride;
            const Trilinear<T> y = weight != T(0) ? interpolate(m.table, cell, f) : Trilinear<T>{};
            e[k] = weight * y.value;
            if (t) t[k] = weight * per_unit * dot(cell.slope * y.grad, v);
        }
    }
}

template <class T>
DFN_HD T unit_product(const FieldModel<T>& m, int unit, const T* e, int stride) {
    const int inputs = m.grid.levels * m.grid.features;
    T sum = T(0);
    for (int k = 0; k < inputs; ++k) sum += m.W1[unit * inputs + k] * e[k * stride];
    return sum;
}

// Outputs o and, unless q is null, q = W1^T (m w2_0).
template <class T>
DFN_HD void decode_sample(const FieldModel<T>& m, const T* e, T* q, int stride, T (&o)[kOutputs]) {
    const int inputs = m.grid.levels * m.grid.features;
    for (int c = 0; c < kOutputs; ++c) o[c] = m.b2[c];
    for (int k = 0; q && k < inputs; ++k) q[k * stride] = T(0);
    for (int j = 0; j < m.hidden; ++j) {
        const T z = unit_product(m, j, e, stride) + m.b1[j];
        if (!(z > T(0))) continue;
        for (int c = 0; c < kOutputs; ++c) o[c] += m.W2[c * m.hidden + j] * z;
        for (int k = 0; q && k < inputs; ++k) q[k * stride] += m.W2[j] * m.W1[j * inputs + k];
    }
}

// One row of h, rgb_raw, grad_h. e and q are scratch.
template <class T>
DFN_HD void field_forward_body(const Field<T>& p, int64_t i, T* e, T* q, int stride) {
    const FieldModel<T>& m = p.model;
    const Vec3<T> x = load3(p.x, i), u = to_unit_cube(x, m.bound);
    T o[kOutputs];
    encode_sample(m, u, Vec3<T>{}, e, static_cast<T*>(nullptr), stride);
    decode_sample(m, e, p.grad_h ? q : nullptr, stride, o);
    Vec3<T> grad{};
    p.h[i] = o[0] + blob_density(m.blob, x, grad);
    if (!p.grad_h) return;
    const T per_unit = T(1) / (T(2) * m.bound);
    for (int level = 0; level < m.grid.levels; ++level) {
        const T weight = m.level_weight[level] * per_unit;
        if (weight == T(0)) continue;
        const Cell<T> cell = find_cell(m.grid, level, u);
        for (int f = 0; f < m.grid.features; ++f) {
            const T qk = q[(level * m.grid.features + f) * stride];
            grad = grad + weight * qk * (cell.slope * interpolate(m.table, cell, f).grad);
        }
    }
    store3(p.grad_h, i, grad);
    store3(p.rgb_raw, i, Vec3<T>{o[1], o[2], o[3]});
}

// A sample's share of the gradient of one hidden unit: row of W1, b1, column of W2. e and t as from encode_sample, d
// the gradients of the four outputs. weights is grad_weights or a block's own copy of it.
template <class T, class Add>
DFN_HD void field_unit_backward(
    const FieldModel<T>& m, int unit, const T* e, const T* t, const T* d, int stride, T* weights, Add) {
    const int inputs = m.grid.levels * m.grid.features, H = m.hidden;
    const T z = unit_product(m, unit, e, stride) + m.b1[unit];
    if (!(z > T(0))) return;
    T dz = T(0);
    for (int c = 0; c < kOutputs; ++c) dz += m.W2[c * H + unit] * d[c * stride];
    T* const W2 = weights + H * inputs + H + unit;
    for (int c = 0; c < kOutputs; ++c)
        Add::add(W2 + c * H, z * d[c * stride] + (c == 0 ? unit_product(m, unit, t, stride) : T(0)));
    Add::add(weights + H * inputs + unit, dz);
    for (int k = 0; k < inputs; ++k)
        Add::add(weights + unit * inputs + k, dz * e[k * stride] + m.W2[unit] * t[k * stride]);
}

template <class T, class Add>
DFN_HD void field_bias_backward(const FieldModel<T>& m, const T* d, int stride, T* weights, Add) {
    const int inputs = m.grid.levels * m.grid.features;
    for (int c = 0; c < kOutputs; ++c) Add::add(weights + m.hidden * (inputs + 1 + kOutputs) + c, d[c * stride]);
}

// One sample's part of grad_table: de and q per input from the hidden layer, then one scatter. e as from encode_sample.
template <class T, class Add>
DFN_HD void field_table_backward(
    const Field<T>& p, int64_t i, const T* e, const T* d, T* de, T* q, int stride, Add add) {
    const FieldModel<T>& m = p.model;
    const int F = m.grid.features, inputs = m.grid.levels * F;
    for (int k = 0; k < inputs; ++k) de[k * stride] = q[k * stride] = T(0);
    for (int j = 0; j < m.hidden; ++j) {
        if (!(unit_product(m, j, e, stride) + m.b1[j] > T(0))) continue;
        T dz = T(0);
        for (int c = 0; c < kOutputs; ++c) dz += m.W2[c * m.hidden + j] * d[c * stride];
        for (int k = 0; k < inputs; ++k) {
            de[k * stride] += dz * m.W1[j * inputs + k];
            q[k * stride] += m.W2[j] * m.W1[j * inputs + k];
        }
    }
    const Vec3<T> u = to_unit_cube(load3(p.x, i), m.bound), v = load3(p.d_grad_h, i);
    const T per_unit = T(1) / (T(2) * m.bound);
    for (int level = 0; level < m.grid.levels; ++level) {
        const T weight = m.level_weight[level];
        if (weight == T(0)) continue;
        const Cell<T> cell = find_cell(m.grid, level, u);
        for (int f = 0; f < F; ++f) {
            const int k = (level * F + f) * stride;
            scatter(p.grad_table, cell, f, weight * de[k], (weight * per_unit * q[k]) * (cell.slope * v), add);
        }
    }
}

// Gradients of the four outputs of one sample.
template <class T>
DFN_HD void load_output_gradient(const Field<T>& p, int64_t i, T* d, int stride) {
    d[0] = p.d_h[i];
    for (int c = 0; c < 3; ++c) d[(c + 1) * stride] = p.d_rgb_raw[3 * i + c];
}

DFN_DECLARE(field_forward, Field)
DFN_DECLARE(field_backward, Field)

}  // namespace dfn
