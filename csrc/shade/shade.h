// Shade: density, colour and normal of a sample (DreamFusion, section 3.1: c = rho * (l_rho * max(0, n . l) + l_a)).
// Backward recomputes and overwrites the gradients of h, rgb_raw and grad_h; positions, rays and lights get none.
#pragma once
#include "base/hd.h"
#include "base/launch.h"

namespace dfn {

constexpr double kExpLimit = 15;  // exp(h) is constant from here on, in value and in gradient; NaN stays NaN

template <class T>
struct Shade {
    const T* h;             // in (n): pre-activation density
    const T* rgb_raw;       // in (n, 3)
    const T* grad_h;        // in (n, 3): dh/dx
    const T* x;             // in (n, 3)
    const int32_t* ray_id;  // in (n)
    const float* view;      // in (views, 6): light x, y, z, ambient, diffuse, textureless
    const int64_t* count;   // in (1) or null: rows in use
    T* sigma;               // out (n), forward
    T* rgb;                 // out (n, 3), forward
    T* normal;              // out (n, 3), forward
    int64_t n;
    int64_t views;
    int64_t rays_per_view;
    T eps;             // regularises the normal
    bool exp_density;  // exp instead of softplus

    DFN_FIELDS(
        h, rgb_raw, grad_h, x, ray_id, view, count, sigma, rgb, normal, n, views, rays_per_view, eps, exp_density)
};

template <class T>
struct ShadeBackward {
    Shade<T> forward;   // its inputs; the outputs are not read
    const T* d_sigma;   // in (n)
    const T* d_rgb;     // in (n, 3)
    const T* d_normal;  // in (n, 3)
    T* d_h;             // out (n)
    T* d_rgb_raw;       // out (n, 3)
    T* d_grad_h;        // out (n, 3)

    DFN_FIELDS(forward, d_sigma, d_rgb, d_normal, d_h, d_rgb_raw, d_grad_h)
};

template <class T>
DFN_HD T sigmoid(T v) {
    return T(1) / (T(1) + std::exp(-v));
}

template <class T>
DFN_HD T softplus(T v) {
    return max0(v) + std::log1p(std::exp(v > T(0) ? -v : v));
}

template <class T>
DFN_HD T density(T h, bool exponential) {
    return exponential ? std::exp(h > T(kExpLimit) ? T(kExpLimit) : h) : softplus(h);
}

template <class T>
DFN_HD T density_slope(T h, bool exponential) {
    if (!exponential) return sigmoid(h);
    return h > T(kExpLimit) ? T(0) : std::exp(h);
}

// What both directions need of a sample.
template <class T>
struct Lit {
    Vec3<T> albedo, normal, light;  // light: unit vector towards it
    T inverse_length;               // of the regularised gradient
    T cosine, diffuse, shading;     // shading = ambient + diffuse * max(0, cosine)
    bool textureless;
};

template <class T>
DFN_HD Lit<T> light_sample(const Shade<T>& p, int64_t i) {
    Lit<T> s;
    const int64_t wanted = p.ray_id[i] / p.rays_per_view;
    const float* v = p.view + 6 * (wanted < 0 ? 0 : (wanted < p.views ? wanted : p.views - 1));
    const Vec3<T> g = load3(p.grad_h, i);
    const Vec3<T> to_light = Vec3<T>{T(v[0]), T(v[1]), T(v[2])} - load3(p.x, i);
    const T distance2 = dot(to_light, to_light);
    s.light = (T(1) / std::sqrt(distance2 > T(1e-20) ? distance2 : T(1e-20))) * to_light;
    s.inverse_length = T(1) / std::sqrt(dot(g, g) + p.eps * p.eps);
    s.normal = -s.inverse_length * g;
    s.cosine = dot(s.normal, s.light);
    s.diffuse = T(v[4]);
    s.shading = T(v[3]) + s.diffuse * max0(s.cosine);
    s.textureless = v[5] != 0.f;
    s.albedo = {T(1), T(1), T(1)};
    if (!s.textureless) {
        const Vec3<T> raw = load3(p.rgb_raw, i);
        s.albedo = {sigmoid(raw.x), sigmoid(raw.y), sigmoid(raw.z)};
    }
    return s;
}

template <class T>
DFN_HD void shade_sample(const Shade<T>& p, int64_t i) {
    const Lit<T> s = light_sample(p, i);
    p.sigma[i] = density(p.h[i], p.exp_density);
    store3(p.rgb, i, s.shading * s.albedo);
    store3(p.normal, i, s.normal);
}

template <class T>
DFN_HD void clear_sample(const Shade<T>& p, int64_t i) {
    p.sigma[i] = T(0);
    store3(p.rgb, i, Vec3<T>{T(0), T(0), T(0)});
    store3(p.normal, i, Vec3<T>{T(0), T(0), T(0)});
}

template <class T>
DFN_HD void shade_sample_backward(const ShadeBackward<T>& p, int64_t i) {
    const Lit<T> s = light_sample(p.forward, i);
    const Vec3<T> d_rgb = load3(p.d_rgb, i), one{T(1), T(1), T(1)};
    const T lit = s.cosine > T(0) ? s.diffuse * dot(d_rgb, s.albedo) : T(0);
    const Vec3<T> d_normal = load3(p.d_normal, i) + lit * s.light;
    p.d_h[i] = p.d_sigma[i] * density_slope(p.forward.h[i], p.forward.exp_density);
    const T slope = s.textureless ? T(0) : s.shading;
    store3(p.d_rgb_raw, i, slope * (d_rgb * s.albedo * (one - s.albedo)));
    // n = -g / sqrt(|g|^2 + eps^2), hence dn/dg = -(1 - n n^T) / sqrt(|g|^2 + eps^2).
    store3(p.d_grad_h, i, -s.inverse_length * (d_normal - dot(s.normal, d_normal) * s.normal));
}

template <class T>
DFN_HD void clear_sample_backward(const ShadeBackward<T>& p, int64_t i) {
    p.d_h[i] = T(0);
    store3(p.d_rgb_raw, i, Vec3<T>{T(0), T(0), T(0)});
    store3(p.d_grad_h, i, Vec3<T>{T(0), T(0), T(0)});
}

DFN_DECLARE(shade_forward, Shade)
DFN_DECLARE(shade_backward, ShadeBackward)

}  // namespace dfn
