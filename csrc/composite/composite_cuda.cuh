// Composite on CUDA: a warp has a ray and takes 32 of its samples at a time, so that rows are read side by side and a
// ray of many samples does not keep 31 others waiting. What composite.h does one after the other is a scan here.
#pragma once
#include "base/cuda_util.cuh"
#include "composite/composite.h"

namespace dfn::cuda {

// 32 samples of a ray, one per lane.
struct Span {
    float before, after, weight;  // transmittance in front of the sample and behind it; w
    bool live;                    // a row of the ray, reached before the ray ended
};

// `transmittance` in front of row `first`; moves on behind the span. Forward and backward see the same bits.
__device__ inline Span next_span(const Composite<float>& p, int64_t first, int64_t end, float& transmittance) {
    const unsigned lane = threadIdx.x % kWarp;
    const int64_t i = first + lane;
    const float clear = i < end ? transparency(p, i) : 1.f;
    float product = clear;
    for (unsigned reach = 1; reach < kWarp; reach *= 2) {
        const float other = __shfl_up_sync(kAllLanes, product, reach);
        if (lane >= reach) product *= other;
    }
    const float passed = __shfl_up_sync(kAllLanes, product, 1);
    Span s;
    s.before = lane ? transmittance * passed : transmittance;
    s.after = transmittance * product;
    s.live = i < end && !(s.before < float(kStopTransmittance));
    s.weight = s.live ? s.before * (1.f - clear) : 0.f;
    transmittance *= __shfl_sync(kAllLanes, product, int(kWarp) - 1);
    return s;
}

__device__ inline Vec3<float> sum_over_warp(Vec3<float> v) {
    return {sum_over_warp(v.x), sum_over_warp(v.y), sum_over_warp(v.z)};
}

// The rays of this warp: for (int64_t ray = first_ray(); ray < rays; ray += warps_of_grid()).
__device__ inline int64_t first_ray() { return (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / kWarp; }
__device__ inline int64_t warps_of_grid() { return int64_t(gridDim.x) * blockDim.x / kWarp; }

__global__ void composite_kernel(const Composite<float> p) {
    const unsigned lane = threadIdx.x % kWarp;
    for (int64_t ray = first_ray(); ray < p.rays; ray += warps_of_grid()) {
        const Rows rows = rows_of(p, ray);
        const Vec3<float> d = load3(p.rays_d, ray);
        Vec3<float> color{}, normals{};
        float opacity = 0, depth = 0, orient = 0, transmittance = 1;
        for (int64_t first = rows.begin; first < rows.end; first += kWarp) {
            const Span s = next_span(p, first, rows.end, transmittance);
            if (s.live) {
                const int64_t i = first + lane;
                const Vec3<float> n = load3(p.normal, i);
                const float away = facing_away(n, d);
                color = color + s.weight * load3(p.rgb, i);
                normals = normals + s.weight * n;
                opacity += s.weight;
                depth += s.weight * p.t[i];
                orient += s.weight * away * away;
            }
            if (transmittance < float(kStopTransmittance)) break;  // for all lanes at once
        }
        color = sum_over_warp(color);
        normals = sum_over_warp(normals);
        opacity = sum_over_warp(opacity);
        depth = sum_over_warp(depth);
        orient = sum_over_warp(orient);
        if (lane) continue;
        store3(p.color, ray, color);
        store3(p.normals, ray, normals);
        p.opacity[ray] = opacity;
        p.depth[ray] = depth;
        p.orient[ray] = orient;
    }
}

__global__ void composite_backward_kernel(const CompositeBackward<float> p) {
    const Composite<float>& f = p.forward;
    const unsigned lane = threadIdx.x % kWarp;
    for (int64_t ray = first_ray(); ray < f.rays; ray += warps_of_grid()) {
        const Rows rows = rows_of(f, ray);
        const Vec3<float> d = load3(f.rays_d, ray);
        const Vec3<float> d_color = load3(p.d_color, ray), d_normals = load3(p.d_normals, ray);
        const float d_opacity = p.d_opacity[ray], d_depth = p.d_depth[ray], d_orient = p.d_orient[ray];
        // sum of w_j q_j over all samples of the ray, less those that the loop has passed
        float behind = dot(d_color, load3(f.color, ray)) + dot(d_normals, load3(f.normals, ray)) +
                       d_opacity * f.opacity[ray] + d_depth * f.depth[ray];
        float transmittance = 1;
        for (int64_t first = rows.begin; first < rows.end; first += kWarp) {
            const Span s = next_span(f, first, rows.end, transmittance);
            const int64_t i = first + lane;
            const Vec3<float> n = s.live ? load3(f.normal, i) : Vec3<float>{};
            const float q =
                s.live ? dot(d_color, load3(f.rgb, i)) + dot(d_normals, n) + d_opacity + d_depth * f.t[i] : 0.f;
            float passed = s.weight * q;  // becomes the sum over the lanes up to this one
            for (unsigned reach = 1; reach < kWarp; reach *= 2) {
                const float other = __shfl_up_sync(kAllLanes, passed, reach);
                if (lane >= reach) passed += other;
            }
            if (s.live) {
                p.d_sigma[i] = f.step * (s.after * q - (behind - passed));
                store3(p.d_rgb, i, s.weight * d_color);
                store3(p.d_normal, i, s.weight * (d_normals + (2.f * d_orient * facing_away(n, d)) * d));
            } else if (i < rows.end) {
                clear_gradient(p, i);
            }
            behind -= __shfl_sync(kAllLanes, passed, int(kWarp) - 1);
        }
    }
}

}  // namespace dfn::cuda
