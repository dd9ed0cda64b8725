// Rasterise, interpolate and antialias on CUDA. A thread has a vertex, a triangle or a pixel; a large triangle has a
// warp. The nearest triangle is the minimum of 64-bit keys, whatever the order; gradients are summed by atomics.
#include "base/cuda_util.cuh"
#include "raster/antialias.h"
#include "raster/interpolate.h"
#include "raster/rasterise.h"

namespace dfn::cuda {
namespace {

constexpr uint64_t kNothing = ~uint64_t(0);
constexpr int kOwnPixels = 64;  // more of them than that are a warp's

// A float's bits as an integer of the same order; a zero has one form.
__device__ uint32_t ordered_bits(float depth) {
    const uint32_t bits = __float_as_uint(depth + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

template <class T>
__global__ void project_kernel(Mesh<T> m) {
    DFN_GRID_STRIDE(row, m.views * m.vertices) project_vertex(m, row);
}

template <class T>
__global__ void clear_keys_kernel(Rasterise<T> p) {
    DFN_GRID_STRIDE(i, p.mesh.views * p.mesh.height * p.mesh.width) p.keys[i] = kNothing;
}

// Keeps the nearest triangle of the pixels lane, lane + lanes, ... of a triangle's bounds. Returns how many there are;
// if they are more than `limit`, it draws none.
template <class T>
__device__ int64_t draw(const Rasterise<T>& p, int64_t item, int lane, int lanes, int64_t limit) {
    const Mesh<T>& m = p.mesh;
    const int64_t view = item / m.triangles, triangle = item % m.triangles;
    int64_t most_pixels = 0;
    for_each_piece(m, view, triangle, [&](ScreenPoint<T> a, ScreenPoint<T> b, ScreenPoint<T> c) {
        Coverage<T> s;
        if (!set_up(a, b, c, m.height, m.width, p.cull, s)) return;
        const int width = s.right - s.left + 1;
        const int64_t pixels = int64_t(s.bottom - s.top + 1) * width;
        most_pixels = pixels > most_pixels ? pixels : most_pixels;
        if (pixels > limit) return;
        const DepthPlane<T> plane = depth_plane(a, b, c, s.area);
        for (int64_t i = lane; i < pixels; i += lanes) {
            const int x = s.left + int(i % width), y = s.top + int(i / width);
            if (!is_covered(s, x, y)) continue;
            const T depth = plane(T(x), T(y));
            if (!(depth <= T(1))) continue;
            const uint64_t key = uint64_t(ordered_bits(depth)) << 32 | uint64_t(triangle);
            unsigned long long* const keys = reinterpret_cast<unsigned long long*>(p.keys);
            atomicMin(keys + (view * m.height + y) * m.width + x, static_cast<unsigned long long>(key));
        }
    });
    return most_pixels;
}

// Every lane first draws its own triangle if that is small; then all lanes draw the large ones, one by one. A clipped
// triangle with one large piece is drawn twice, which changes nothing.
template <class T>
__global__ void draw_kernel(Rasterise<T> p) {
    const int64_t items = p.mesh.views * p.mesh.triangles, all = (items + kWarp - 1) / kWarp * kWarp;
    const int lane = int(threadIdx.x % kWarp);
    DFN_GRID_STRIDE(item, all) {
        const bool large = item < items && draw(p, item, 0, 1, kOwnPixels) > kOwnPixels;
        unsigned waiting = __ballot_sync(kAllLanes, large);
        while (waiting) {
            const int64_t next = item - lane + (__ffs(int(waiting)) - 1);
            draw(p, next, lane, int(kWarp), INT64_MAX);
            waiting &= waiting - 1;
        }
    }
}

struct Pixel {
    int64_t view;
    int y, x;
};

__device__ Pixel pixel_at(int64_t i, int height, int width) {
    const int64_t row = i / width;
    return {row / height, int(row % height), int(i % width)};
}

template <class T>
__global__ void finish_kernel(Rasterise<T> p) {
    DFN_GRID_STRIDE(i, p.mesh.views * p.mesh.height * p.mesh.width) {
        const Pixel at = pixel_at(i, p.mesh.height, p.mesh.width);
        p.face[i] = p.keys[i] == kNothing ? -1 : int32_t(p.keys[i] & 0xFFFFFFFFu);
        finish_pixel(p, i, at.view, at.y, at.x);
    }
}

template <class T>
__global__ void clear_kernel(T* values, int64_t n) {
    DFN_GRID_STRIDE(i, n) values[i] = T(0);
}

// Rows in global memory to which many threads add.
template <class T>
struct AtomicRows {
    T* rows;  // null: nothing is wanted
    int width;

    __device__ explicit operator bool() const { return rows; }
    __device__ void add(int64_t row, int column, T value) const { AtomicAdd::add(rows + row * width + column, value); }
};

template <class T>
__global__ void rasterise_backward_kernel(RasteriseBackward<T> p) {
    const Mesh<T>& m = p.mesh;
    DFN_GRID_STRIDE(i, m.views * m.height * m.width) {
        const Pixel at = pixel_at(i, m.height, m.width);
        CornerGradient<T> gradient;
        if (rasterise_pixel_backward(p, i, at.view, at.y, at.x, gradient))
            gradient.add_to(AtomicRows<T>{p.d_position + 4 * at.view * m.vertices, 4});
    }
}

template <class T>
__global__ void interpolate_kernel(Interpolate<T> p) {
    const int64_t pixels = int64_t(p.height) * p.width;
    DFN_GRID_STRIDE(i, p.views * pixels) interpolate_pixel(p, i, i / pixels);
}

template <class T>
__global__ void interpolate_backward_kernel(InterpolateBackward<T> p) {
    const Interpolate<T>& f = p.forward;
    const int64_t pixels = int64_t(f.height) * f.width;
    DFN_GRID_STRIDE(i, f.views * pixels) {
        const int64_t view = i / pixels, first = f.shared ? 0 : view * f.vertices * f.channels;
        T* const target = p.d_attribute ? p.d_attribute + first : nullptr;
        interpolate_pixel_backward(p, i, view, AtomicRows<T>{target, f.channels});
    }
}

template <class T>
__global__ void antialias_kernel(Antialias<T> p) {
    const int height = p.height / p.samples, width = p.width / p.samples;
    DFN_GRID_STRIDE(i, p.views * height * width) {
        const Pixel at = pixel_at(i, height, width);
        antialias_pixel(p, at.view, at.y, at.x, p.out + i * p.channels);
    }
}

template <class T>
__global__ void antialias_backward_kernel(AntialiasBackward<T> p) {
    const Mesh<T>& m = p.mesh;
    DFN_GRID_STRIDE(i, m.views * m.height * m.width) {
        const Pixel at = pixel_at(i, m.height, m.width);
        if (p.d_image) antialias_pixel_spread(p, i, at.view, at.y, at.x);
        if (!p.d_position) continue;
        const AtomicRows<T> target{p.d_position + 4 * at.view * m.vertices, 4};
        antialias_edges_backward<0>(p, at.view, at.y, at.x, target);
    }
}

template <class T>
void project(const char* op, const Mesh<T>& m, const Exec& e) {
    launch(op, e, project_kernel<T>, blocks_for(m.views * m.vertices), kBlock, m);
}

template <class T>
void clear(const char* op, T* values, int64_t n, const Exec& e) {
    launch(op, e, clear_kernel<T>, blocks_for(n), kBlock, values, n);
}

template <class T>
int64_t pixels_of(const Mesh<T>& m) {
    return m.views * m.height * m.width;
}

}  // namespace

template <class T>
void rasterise(const Rasterise<T>& p, const Exec& e) {
    const unsigned pixels = blocks_for(pixels_of(p.mesh));
    project("rasterise", p.mesh, e);
    launch("rasterise", e, clear_keys_kernel<T>, pixels, kBlock, p);
    launch("rasterise", e, draw_kernel<T>, blocks_for(p.mesh.views * p.mesh.triangles), kBlock, p);
    launch("rasterise", e, finish_kernel<T>, pixels, kBlock, p);
}

template <class T>
void rasterise_backward(const RasteriseBackward<T>& p, const Exec& e) {
    clear("rasterise_backward", p.d_position, 4 * p.mesh.views * p.mesh.vertices, e);
    launch("rasterise_backward", e, rasterise_backward_kernel<T>, blocks_for(pixels_of(p.mesh)), kBlock, p);
}

template <class T>
void interpolate(const Interpolate<T>& p, const Exec& e) {
    launch("interpolate", e, interpolate_kernel<T>, blocks_for(p.views * p.height * p.width), kBlock, p);
}

template <class T>
void interpolate_backward(const InterpolateBackward<T>& p, const Exec& e) {
    const Interpolate<T>& f = p.forward;
    const char* const op = "interpolate_backward";
    if (p.d_attribute) clear(op, p.d_attribute, (f.shared ? 1 : f.views) * f.vertices * f.channels, e);
    launch(op, e, interpolate_backward_kernel<T>, blocks_for(f.views * f.height * f.width), kBlock, p);
}

template <class T>
void antialias(const Antialias<T>& p, const Exec& e) {
    const int64_t pixels = p.views * (p.height / p.samples) * (p.width / p.samples);
    launch("antialias", e, antialias_kernel<T>, blocks_for(pixels), kBlock, p);
}

template <class T>
void antialias_backward(const AntialiasBackward<T>& p, const Exec& e) {
    const char* const op = "antialias_backward";
    if (p.d_position) {
        project(op, p.mesh, e);
        clear(op, p.d_position, 4 * p.mesh.views * p.mesh.vertices, e);
    }
    launch(op, e, antialias_backward_kernel<T>, blocks_for(pixels_of(p.mesh)), kBlock, p);
}

DFN_INSTANTIATE_CUDA(rasterise, Rasterise);
DFN_INSTANTIATE_CUDA(rasterise_backward, RasteriseBackward);
DFN_INSTANTIATE_CUDA(interpolate, Interpolate);
DFN_INSTANTIATE_CUDA(interpolate_backward, InterpolateBackward);
DFN_INSTANTIATE_CUDA(antialias, Antialias);
DFN_INSTANTIATE_CUDA(antialias_backward, AntialiasBackward);

}  // namespace dfn::cuda
