// Interpolate: numbers at vertices, or at corners of triangles, to pixels by barycentrics.
#pragma once
#include "raster/screen.h"

namespace dfn {

template <class T>
struct Interpolate {
    const T* attribute;    // in (views or 1, vertices, channels)
    const int32_t* faces;  // in (triangles, 3)
    const int32_t* face;   // in (views, height, width): -1, or one out of range, where nothing is
    const T* barycentric;  // in (views, height, width, 3)
    T* out;                // out (views, height, width, channels): 0 where nothing is
    int64_t views, vertices, triangles;
    int height, width, channels;
    bool shared;  // one set of attributes for all views

    DFN_FIELDS(attribute, faces, face, barycentric, out, views, vertices, triangles, height, width, channels, shared)
};

template <class T>
struct InterpolateBackward {
    Interpolate<T> forward;
    const T* d_out;    // in
    T* d_attribute;    // out; null: not wanted
    T* d_barycentric;  // out

    DFN_FIELDS(forward, d_out, d_attribute, d_barycentric)
};

// The attributes of a pixel's view.
template <class T>
DFN_HD const T* attributes_of(const Interpolate<T>& p, int64_t view) {
    return p.attribute + (p.shared ? 0 : view * p.vertices * p.channels);
}

template <class T>
DFN_HD void interpolate_pixel(const Interpolate<T>& p, int64_t pixel, int64_t view) {
    int64_t corner[3];
    T* out = p.out + pixel * p.channels;
    if (!corners_of(p.faces, p.triangles, p.vertices, p.face[pixel], corner)) {
        for (int c = 0; c < p.channels; ++c) out[c] = T(0);
        return;
    }
    const Vec3<T> b = load3(p.barycentric, pixel);
    const T* attribute = attributes_of(p, view);
    const T* a0 = attribute + corner[0] * p.channels;
    const T* a1 = attribute + corner[1] * p.channels;
    const T* a2 = attribute + corner[2] * p.channels;
    for (int c = 0; c < p.channels; ++c) out[c] = b.x * a0[c] + b.y * a1[c] + b.z * a2[c];
}

// d_attribute: adds to the rows of the pixel's view, or of all views; false: not wanted.
template <class Sum, class T>
DFN_HD void interpolate_pixel_backward(
    const InterpolateBackward<T>& p, int64_t pixel, int64_t view, const Sum& d_attribute) {
    const Interpolate<T>& f = p.forward;
    int64_t corner[3];
    Vec3<T> d{T(0), T(0), T(0)};
    if (corners_of(f.faces, f.triangles, f.vertices, f.face[pixel], corner)) {
        const Vec3<T> b = load3(f.barycentric, pixel);
        const T* attribute = attributes_of(f, view);
        const T *const a0 = attribute + corner[0] * f.channels, *const a1 = attribute + corner[1] * f.channels;
        const T* const a2 = attribute + corner[2] * f.channels;
        for (int c = 0; c < f.channels; ++c) {
            const T g = p.d_out[pixel * f.channels + c];
            if (g == T(0)) continue;
            d = d + g * Vec3<T>{a0[c], a1[c], a2[c]};
            if (!d_attribute) continue;
            d_attribute.add(corner[0], c, b.x * g);
            d_attribute.add(corner[1], c, b.y * g);
            d_attribute.add(corner[2], c, b.z * g);
        }
    }
    store3(p.d_barycentric, pixel, d);
}

DFN_DECLARE(interpolate, Interpolate)
DFN_DECLARE(interpolate_backward, InterpolateBackward)

}  // namespace dfn
