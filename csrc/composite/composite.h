// Composite: alpha compositing of a ray's samples (NeRF, equation 3): alpha_i = 1 - exp(-sigma_i * step),
// w_i = T_i alpha_i, T_(i+1) = T_i (1 - alpha_i). Backward overwrites the gradients of sigma, rgb and normal for every
// row and stores no weights: with q_i = dL/dw_i, dL/dsigma_i = step * (T_(i+1) q_i - sum_(j>i) w_j q_j), and the sum is
// what the outputs hold less what was passed.
#pragma once
#include "base/hd.h"
#include "base/launch.h"

namespace dfn {

constexpr double kStopTransmittance = 1e-4;  // a ray ends behind the sample that takes its transmittance below this

template <class T>
struct Composite {
    const T* sigma;          // in (n)
    const T* rgb;            // in (n, 3)
    const T* normal;         // in (n, 3)
    const T* t;              // in (n)
    const int32_t* offsets;  // in (rays + 1): rows of ray r are offsets[r] to offsets[r + 1] - 1
    const T* rays_d;         // in (rays, 3)
    const int64_t* count;    // in (1) or null: rows in use
    T* color;                // out (rays, 3) sum w rgb. Outputs of forward, inputs of backward
    T* opacity;              // out (rays) sum w
    T* depth;                // out (rays) sum w t
    T* normals;              // out (rays, 3) sum w n
    T* orient;               // out (rays) sum w max(0, n . d)^2 (Ref-NeRF, equation 11); w is a constant in backward
    int64_t rays;
    int64_t n;
    T step;

    DFN_FIELDS(sigma, rgb, normal, t, offsets, rays_d, count, color, opacity, depth, normals, orient, rays, n, step)
};

template <class T>
struct CompositeBackward {
    Composite<T> forward;  // inputs and outputs
    const T* d_color;      // in (rays, 3)
    const T* d_opacity;    // in (rays)
    const T* d_depth;      // in (rays)
    const T* d_normals;    // in (rays, 3)
    const T* d_orient;     // in (rays)
    T* d_sigma;            // out (n)
    T* d_rgb;              // out (n, 3)
    T* d_normal;           // out (n, 3)

    DFN_FIELDS(forward, d_color, d_opacity, d_depth, d_normals, d_orient, d_sigma, d_rgb, d_normal)
};

struct Rows {
    int64_t begin, end;
};

// The rows of a ray, kept inside the arrays whatever the offsets say.
template <class T>
DFN_HD Rows rows_of(const Composite<T>& p, int64_t ray) {
    const int64_t last = live_rows(p.n, p.count), begin = p.offsets[ray], end = p.offsets[ray + 1];
    return {begin < 0 ? 0 : begin, end < last ? end : last};
}

// Rows that belong to rays; the others only get their gradients cleared. Offsets of a few of many rays begin late.
template <class T>
DFN_HD Rows rows_in_use(const Composite<T>& p) {
    const int64_t end = clamp<int64_t>(p.offsets[p.rays], 0, live_rows(p.n, p.count));
    return {clamp<int64_t>(p.offsets[0], 0, end), end};
}

template <class T>
DFN_HD T transparency(const Composite<T>& p, int64_t i) {
    return std::exp(-(p.sigma[i] * p.step));
}

template <class T>
DFN_HD T facing_away(Vec3<T> normal, Vec3<T> direction) {
    return max0(dot(normal, direction));
}

// What the sample of a row lets through. On the CPU in float, exponentials come a vector at a time: simd_kernels.cpp.
template <class T>
struct Transparency {
    const Composite<T>& p;
    DFN_HD T operator()(int64_t row) const { return transparency(p, row); }
};

template <class T, class Clear>
DFN_HD void composite_ray(const Composite<T>& p, int64_t ray, Clear&& clear_of) {
    const Rows rows = rows_of(p, ray);
    const Vec3<T> d = load3(p.rays_d, ray);
    Vec3<T> color{T(0), T(0), T(0)}, normals = color;
    T opacity = 0, depth = 0, orient = 0, transmittance = 1;
    for (int64_t i = rows.begin; i < rows.end; ++i) {
        const T clear = clear_of(i), w = transmittance * (T(1) - clear);
        const Vec3<T> n = load3(p.normal, i);
        const T away = facing_away(n, d);
        color = color + w * load3(p.rgb, i);
        normals = normals + w * n;
        opacity += w;
        depth += w * p.t[i];
        orient += w * away * away;
        transmittance *= clear;
        if (transmittance < T(kStopTransmittance)) break;
    }
    store3(p.color, ray, color);
    store3(p.normals, ray, normals);
    p.opacity[ray] = opacity;
    p.depth[ray] = depth;
    p.orient[ray] = orient;
}

template <class T>
DFN_HD void composite_ray(const Composite<T>& p, int64_t ray) {
    composite_ray(p, ray, Transparency<T>{p});
}

template <class T>
DFN_HD void clear_gradient(const CompositeBackward<T>& p, int64_t i) {
    p.d_sigma[i] = T(0);
    store3(p.d_rgb, i, Vec3<T>{T(0), T(0), T(0)});
    store3(p.d_normal, i, Vec3<T>{T(0), T(0), T(0)});
}

// Of the i-th row that no ray has.
template <class T>
DFN_HD void clear_spare(const CompositeBackward<T>& p, Rows used, int64_t i) {
    clear_gradient(p, i < used.begin ? i : used.end + i - used.begin);
}

template <class T, class Clear>
DFN_HD void composite_ray_backward(const CompositeBackward<T>& p, int64_t ray, Clear&& clear_of) {
    const Composite<T>& f = p.forward;
    const Rows rows = rows_of(f, ray);
    const Vec3<T> d = load3(f.rays_d, ray), d_color = load3(p.d_color, ray), d_normals = load3(p.d_normals, ray);
    const T d_opacity = p.d_opacity[ray], d_depth = p.d_depth[ray], d_orient = p.d_orient[ray];
    // sum of w_j q_j over all samples of the ray; the loop takes away those that it has passed.
    T behind = dot(d_color, load3(f.color, ray)) + dot(d_normals, load3(f.normals, ray)) + d_opacity * f.opacity[ray] +
               d_depth * f.depth[ray];
    T transmittance = 1;
    int64_t i = rows.begin;
    for (; i < rows.end && !(transmittance < T(kStopTransmittance)); ++i) {
        const T clear = clear_of(i), w = transmittance * (T(1) - clear);
        const Vec3<T> n = load3(f.normal, i);
        const T q = dot(d_color, load3(f.rgb, i)) + dot(d_normals, n) + d_opacity + d_depth * f.t[i];
        transmittance *= clear;
        behind -= w * q;
        p.d_sigma[i] = f.step * (transmittance * q - behind);
        store3(p.d_rgb, i, w * d_color);
        store3(p.d_normal, i, w * (d_normals + (T(2) * d_orient * facing_away(n, d)) * d));
    }
    for (; i < rows.end; ++i) clear_gradient(p, i);
}

template <class T>
DFN_HD void composite_ray_backward(const CompositeBackward<T>& p, int64_t ray) {
    composite_ray_backward(p, ray, Transparency<T>{p.forward});
}

DFN_DECLARE(composite_forward, Composite)
DFN_DECLARE(composite_backward, CompositeBackward)

}  // namespace dfn
