// Rasterise: the nearest triangle of every pixel, its depth and barycentrics. Passes: `project_vertex`, then the pixels
// of every triangle (`set_up`, `is_covered`, `depth_plane`), the nearest one kept, of two at the same depth the one
// with the smaller number; then `finish_pixel`. No pass depends on the order of triangles.
#pragma once
#include "raster/near.h"

namespace dfn {

template <class T>
struct Rasterise {
    Mesh<T> mesh;
    uint64_t* keys;  // scratch (views, height, width), on CUDA only: depth and triangle in one number
    int32_t* face;   // out (views, height, width): -1 where nothing is
    T* depth;        // out (views, height, width): z / w, 1 where nothing is
    T* barycentric;  // out (views, height, width, 3), perspective; 0 where nothing is
    bool cull;       // back faces are not there

    DFN_FIELDS(mesh, keys, face, depth, barycentric, cull)
};

template <class T>
struct RasteriseBackward {
    Mesh<T> mesh;
    const int32_t* face;     // in
    const T* d_depth;        // in (views, height, width)
    const T* d_barycentric;  // in (views, height, width, 3)
    T* d_position;           // out (views, vertices, 4)

    DFN_FIELDS(mesh, face, d_depth, d_barycentric, d_position)
};

template <class T>
struct Coverage {
    Edge<T> edge[3];
    double area;
    int left, right, top, bottom;  // pixels that may be inside
};

// Whole numbers of [0, size) between two bounds: an empty range if there are none.
template <class T>
DFN_HD void whole_between(T low, T high, int size, int& first, int& last) {
    low = clamp(low, T(0), T(size));
    high = clamp(high, T(-1), T(size - 1));
    first = int(low) + (T(int(low)) < low);
    last = high < T(0) ? -1 : int(high);
}

// The pixels within a triangle's bounds. False: there are none.
template <class T>
DFN_HD bool bound(ScreenPoint<T> a, ScreenPoint<T> b, ScreenPoint<T> c, int height, int width, Coverage<T>& s) {
    whole_between(least(a.x, b.x, c.x), most(a.x, b.x, c.x), width, s.left, s.right);
    whole_between(least(a.y, b.y, c.y), most(a.y, b.y, c.y), height, s.top, s.bottom);
    return s.left <= s.right && s.top <= s.bottom;
}

// False: no pixel is inside.
template <class T>
DFN_HD bool set_up(
    ScreenPoint<T> a, ScreenPoint<T> b, ScreenPoint<T> c, int height, int width, bool cull, Coverage<T>& s) {
    if (!bound(a, b, c, height, width, s)) return false;
    s.area = signed_area(a, b, c);
    if (s.area == 0 || (cull && s.area > 0)) return false;
    s.edge[0] = edge_between(a, b, s.area > 0);
    s.edge[1] = edge_between(b, c, s.area > 0);
    s.edge[2] = edge_between(c, a, s.area > 0);
    return true;
}

// Depth as a function of the place on the screen, within its bounds.
template <class T>
struct DepthPlane {
    T x, y, z, zx, zy, nearest, farthest;

    DFN_HD T operator()(T px, T py) const {
        return clamp(z + rounded_product(px - x, zx) + rounded_product(py - y, zy), nearest, farthest);
    }
};

template <class T>
DFN_HD DepthPlane<T> depth_plane(ScreenPoint<T> a, ScreenPoint<T> b, ScreenPoint<T> c, double area) {
    DepthPlane<T> s;
    const double bx = double(b.x) - a.x, by = double(b.y) - a.y, bz = double(b.z) - a.z;
    const double cx = double(c.x) - a.x, cy = double(c.y) - a.y, cz = double(c.z) - a.z;
    s.x = a.x;
    s.y = a.y;
    s.z = a.z;
    const double inverse = 1 / area;
    s.zx = T(rounded_product(rounded_product(bz, cy) - rounded_product(cz, by), inverse));
    s.zy = T(rounded_product(rounded_product(cz, bx) - rounded_product(bz, cx), inverse));
    s.nearest = least(a.z, b.z, c.z);
    s.farthest = most(a.z, b.z, c.z);
    return s;
}

// Whether a pixel's centre is inside.
template <class T>
DFN_HD bool is_covered(const Coverage<T>& s, int x, int y) {
    const T px = T(x), py = T(y);
    return is_inside(s.edge[0], edge_value(s.edge[0], px, py)) && is_inside(s.edge[1], edge_value(s.edge[1], px, py)) &&
           is_inside(s.edge[2], edge_value(s.edge[2], px, py));
}

template <class T>
DFN_HD void finish_pixel(const Rasterise<T>& p, int64_t pixel, int64_t view, int y, int x) {
    Seen<T> s;
    T b[3] = {T(0), T(0), T(0)}, depth = T(1), w;
    if (p.face[pixel] >= 0 && look_at(p.mesh, view, p.face[pixel], T(x), T(y), s) && !plane_at(s, b, depth, w)) {
        b[0] = b[1] = b[2] = T(1) / T(3);  // edge-on to the last bit
        depth = T(1);
    }
    p.depth[pixel] = depth;
    store3(p.barycentric, pixel, Vec3<T>{b[0], b[1], b[2]});
}

// False: nothing is there, or nothing comes in.
template <class T>
DFN_HD bool rasterise_pixel_backward(
    const RasteriseBackward<T>& p, int64_t pixel, int64_t view, int y, int x, CornerGradient<T>& out) {
    if (p.face[pixel] < 0) return false;
    Seen<T> s;
    T b[3], depth, w;
    const Vec3<T> d = load3(p.d_barycentric, pixel);
    const T d_b[3] = {d.x, d.y, d.z}, d_depth = p.d_depth[pixel];
    if (d.x == T(0) && d.y == T(0) && d.z == T(0) && d_depth == T(0)) return false;
    if (!look_at(p.mesh, view, p.face[pixel], T(x), T(y), s) || !plane_at(s, b, depth, w)) return false;
    plane_backward(s, b, depth, w, d_b, d_depth, out);
    return true;
}

DFN_DECLARE(rasterise, Rasterise)
DFN_DECLARE(rasterise_backward, RasteriseBackward)

}  // namespace dfn
