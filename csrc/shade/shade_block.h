// Shading on the CPU for a block of samples: the mathematics of shade.h, structure of arrays.
#pragma once
#include "base/rows_block.h"
#include "base/simd_math.h"
#include "shade/shade.h"

namespace dfn::DFN_SIMD_LEVEL {

struct alignas(64) ShadeBlock {
    Row h, raw[3], g[3], x[3], view[6];  // inputs; view: the row of the sample's view
};

DFN_HD void load_block(const Shade<float>& p, int64_t begin, int live, ShadeBlock& b) {
    load_row(p.h, begin, live, b.h);
    split3(p.rgb_raw, begin, live, b.raw);
    split3(p.grad_h, begin, live, b.g);
    split3(p.x, begin, live, b.x);
    int64_t first = 1, last = 0;  // rays whose view is the one before; a division takes longer than all the rest
    const float* view = p.view;
    for (int i = 0; i < kLanes; ++i) {
        const int64_t ray = i < live ? p.ray_id[begin + i] : first;
        if (ray < first || ray > last) {
            const int64_t wanted = ray / p.rays_per_view;
            view = p.view + 6 * (wanted < 0 ? 0 : (wanted < p.views ? wanted : p.views - 1));
            first = ray < 0 ? ray : wanted * p.rays_per_view;
            last = ray < 0 ? ray : first + p.rays_per_view - 1;
        }
        for (int k = 0; k < 6; ++k) b.view[k][i] = view[k];
    }
}

// light_sample of shade.h.
struct VectorLit {
    Vec3<Floats> albedo, normal, light;
    Floats inverse_length, cosine, diffuse, shading;
    Ints textureless;
};

DFN_HD VectorLit light_block(const ShadeBlock& b, float eps, int i) {
    VectorLit s;
    const Floats zero{}, one = splat(1), least = splat(1e-20f);
    const Vec3<Floats> g = load_rows(b.g, i), x = load_rows(b.x, i), raw = load_rows(b.raw, i);
    const Vec3<Floats> to{load(b.view[0] + i) - x.x, load(b.view[1] + i) - x.y, load(b.view[2] + i) - x.z};
    const Floats distance2 = dot(to, to);
    s.light = (one / square_root(distance2 > least ? distance2 : least)) * to;
    s.inverse_length = one / square_root(dot(g, g) + eps * eps);
    s.normal = -s.inverse_length * g;
    s.cosine = dot(s.normal, s.light);
    s.diffuse = load(b.view[4] + i);
    s.shading = load(b.view[3] + i) + s.diffuse * (s.cosine > zero ? s.cosine : zero);
    s.textureless = load(b.view[5] + i) != zero;
    s.albedo.x = s.textureless ? one : logistic(raw.x);
    s.albedo.y = s.textureless ? one : logistic(raw.y);
    s.albedo.z = s.textureless ? one : logistic(raw.z);
    return s;
}

DFN_HD Floats density_block(Floats h, bool exp_density) {
    const Floats zero{}, limit = splat(float(kExpLimit));
    if (exp_density) return exponential(h > limit ? limit : h);
    return (h > zero ? h : zero) + log_one_plus(exponential(h > zero ? -h : h));
}

DFN_HD Floats density_slope_block(Floats h, bool exp_density) {
    if (!exp_density) return logistic(h);
    return h > splat(float(kExpLimit)) ? Floats{} : exponential(h);
}

DFN_HD void shade_block(const Shade<float>& p, int64_t begin, int live) {
    ShadeBlock b;
    alignas(64) Row sigma, rgb[3], normal[3];
    load_block(p, begin, live, b);
    for (int i = 0; i < kLanes; i += kWidth) {
        const VectorLit s = light_block(b, p.eps, i);
        store(sigma + i, density_block(load(b.h + i), p.exp_density));
        store_rows(rgb, i, s.shading * s.albedo);
        store_rows(normal, i, s.normal);
    }
    store_row(sigma, begin, live, p.sigma);
    join3(rgb, begin, live, p.rgb);
    join3(normal, begin, live, p.normal);
}

DFN_HD void shade_block_backward(const ShadeBackward<float>& p, int64_t begin, int live) {
    ShadeBlock b;
    alignas(64) Row d_sigma, d_rgb[3], d_normal[3];  // their gradients take their places
    load_block(p.forward, begin, live, b);
    load_row(p.d_sigma, begin, live, d_sigma);
    split3(p.d_rgb, begin, live, d_rgb);
    split3(p.d_normal, begin, live, d_normal);
    const Floats zero{}, one = splat(1);
    for (int i = 0; i < kLanes; i += kWidth) {
        const VectorLit s = light_block(b, p.forward.eps, i);
        const Vec3<Floats> color = load_rows(d_rgb, i), ones{one, one, one};
        const Floats lit = s.cosine > zero ? s.diffuse * dot(color, s.albedo) : zero;
        const Vec3<Floats> turn = load_rows(d_normal, i) + lit * s.light;
        const Floats slope = s.textureless ? zero : s.shading;
        store(d_sigma + i, load(d_sigma + i) * density_slope_block(load(b.h + i), p.forward.exp_density));
        store_rows(d_rgb, i, slope * (color * s.albedo * (ones - s.albedo)));
        store_rows(d_normal, i, -s.inverse_length * (turn - dot(s.normal, turn) * s.normal));
    }
    store_row(d_sigma, begin, live, p.d_h);
    join3(d_rgb, begin, live, p.d_rgb_raw);
    join3(d_normal, begin, live, p.d_grad_h);
}

}  // namespace dfn::DFN_SIMD_LEVEL
