// Triangles on the screen: projection, edge functions that the two triangles of an edge round alike, and barycentrics.
// Pixel centres have whole coordinates, row 0 is the top. A front face is counter-clockwise as seen.
#pragma once
#include "base/hd.h"
#include "base/launch.h"

namespace dfn {

template <class T>
struct Mesh {
    const T* position;     // in (views, vertices, 4): clip space; what has |x|, |y|, |z| <= w is seen
    const int32_t* faces;  // in (triangles, 3): a triangle with an index out of range is not there
    T* screen;             // scratch (views, vertices, 4): `ScreenPoint`s
    int64_t views, vertices, triangles;
    int height, width;  // pixels

    DFN_FIELDS(position, faces, screen, views, vertices, triangles, height, width)
};

template <class T>
struct Clip {
    T x, y, z, w;
};

enum Place { kBroken = -1, kBehind = 0, kBefore = 1 };  // not finite; behind the near plane; before it

template <class T>
struct ScreenPoint {
    T x, y, z;  // pixels, pixels, depth z / w
    T place;
};

template <class T>
DFN_HD T least(T a, T b, T c) {
    const T m = a < b ? a : b;
    return m < c ? m : c;
}

template <class T>
DFN_HD T most(T a, T b, T c) {
    return -least(-a, -b, -c);
}

template <class T>
DFN_HD T size_of(T v) {
    return v < T(0) ? -v : v;
}

template <class T>
DFN_HD ScreenPoint<T> to_screen(Clip<T> c, int height, int width) {
    const T sum = c.x + c.y + c.z + c.w;
    if (!(sum - sum == T(0))) return {T(0), T(0), T(0), T(kBroken)};
    if (!(c.w > T(0) && c.z >= -c.w)) return {T(0), T(0), T(0), T(kBehind)};
    const T x = rounded_product(T(1) + c.x / c.w, T(0.5) * T(width)) - T(0.5);
    const T y = rounded_product(T(1) - c.y / c.w, T(0.5) * T(height)) - T(0.5);
    const T z = c.z / c.w;
    return x - x == T(0) && y - y == T(0) && z - z == T(0) ? ScreenPoint<T>{x, y, z, T(kBefore)}
                                                           : ScreenPoint<T>{T(0), T(0), T(0), T(kBroken)};
}

template <class T>
DFN_HD Clip<T> load_clip(const Mesh<T>& m, int64_t row) {
    const T* p = m.position + 4 * row;
    return {p[0], p[1], p[2], p[3]};
}

template <class T>
DFN_HD ScreenPoint<T> load_screen(const Mesh<T>& m, int64_t row) {
    const T* p = m.screen + 4 * row;
    return {p[0], p[1], p[2], p[3]};
}

// The first pass: row = view * vertices + vertex.
template <class T>
DFN_HD void project_vertex(const Mesh<T>& m, int64_t row) {
    const ScreenPoint<T> s = to_screen(load_clip(m, row), m.height, m.width);
    T* p = m.screen + 4 * row;
    p[0] = s.x;
    p[1] = s.y;
    p[2] = s.z;
    p[3] = s.place;
}

// The vertices of a triangle. False: it is not there.
DFN_HD bool corners_of(const int32_t* faces, int64_t triangles, int64_t vertices, int64_t triangle, int64_t corner[3]) {
    if (triangle < 0 || triangle >= triangles) return false;
    for (int k = 0; k < 3; ++k) {
        corner[k] = faces[3 * triangle + k];
        if (corner[k] < 0 || corner[k] >= vertices) return false;
    }
    return true;
}

// An edge from its upper end to its lower one, from left to right where it is level. Both triangles of an edge have it
// so, whatever their vertices are called, and get the same value at a pixel.
template <class T>
struct Edge {
    T x, y, dx, dy;
    T side;     // +1, -1: the sign of the values inside the triangle
    bool ties;  // a centre on the edge is inside: the top-left rule
};

template <class T>
DFN_HD Edge<T> edge_between(ScreenPoint<T> a, ScreenPoint<T> b, bool clockwise) {
    const bool swap = b.y < a.y || (b.y == a.y && b.x < a.x);
    const ScreenPoint<T> from = swap ? b : a, to = swap ? a : b;
    Edge<T> e{from.x, from.y, to.x - from.x, to.y - from.y, T(swap == clockwise ? 1 : -1), false};
    e.ties = e.dy > T(0) ? e.side > T(0) : e.side < T(0);
    return e;
}

// Positive to the right of the edge, and above it where it is level.
template <class T>
DFN_HD T edge_value(const Edge<T>& e, T x, T y) {
    return rounded_product(x - e.x, e.dy) - rounded_product(y - e.y, e.dx);
}

template <class T>
DFN_HD bool is_inside(const Edge<T>& e, T value) {
    return e.side * value > T(0) || (value == T(0) && e.ties);
}

// Twice the area, positive where the vertices run clockwise as seen. Exact but for the last bits of a double: its sign
// decides what inside means.
template <class T>
DFN_HD double signed_area(ScreenPoint<T> a, ScreenPoint<T> b, ScreenPoint<T> c) {
    const double abx = double(b.x) - double(a.x), aby = double(b.y) - double(a.y);
    const double acx = double(c.x) - double(a.x), acy = double(c.y) - double(a.y);
    return rounded_product(abx, acy) - rounded_product(aby, acx);
}

// A triangle as seen from one point of the screen, without division by w, so that vertices behind the eye are nothing
// special (Olano and Greer 1997). e[k] / sum: the perspective barycentrics of the point in the triangle's plane.
template <class T>
struct Seen {
    int64_t corner[3];
    Clip<T> c[3];
    T x[3], y[3];  // of the vertices, relative to the point, times w
    T e[3], sum;
    T half_width, half_height;  // d x / d clip x, -d y / d clip y
    T right, down;              // d x / d w, d y / d w
};

// Twice the area between the point and two vertices, times both w. Not contracted: 0 on an edge stays 0.
template <class T>
DFN_HD T cross(T ax, T ay, T bx, T by) {
    return rounded_product(ax, by) - rounded_product(bx, ay);
}

// False: the triangle is not there.
template <class T>
DFN_HD bool look_at(const Mesh<T>& m, int64_t view, int64_t triangle, T px, T py, Seen<T>& s) {
    if (!corners_of(m.faces, m.triangles, m.vertices, triangle, s.corner)) return false;
    s.half_width = T(0.5) * T(m.width);
    s.half_height = T(0.5) * T(m.height);
    s.right = T(0.5) * T(m.width - 1) - px;
    s.down = T(0.5) * T(m.height - 1) - py;
    for (int k = 0; k < 3; ++k) {
        s.c[k] = load_clip(m, view * m.vertices + s.corner[k]);
        s.x[k] = rounded_product(s.c[k].x, s.half_width) + rounded_product(s.c[k].w, s.right);
        s.y[k] = rounded_product(s.c[k].w, s.down) - rounded_product(s.c[k].y, s.half_height);
    }
    s.e[0] = cross(s.x[1], s.y[1], s.x[2], s.y[2]);
    s.e[1] = cross(s.x[2], s.y[2], s.x[0], s.y[0]);
    s.e[2] = cross(s.x[0], s.y[0], s.x[1], s.y[1]);
    s.sum = s.e[0] + s.e[1] + s.e[2];
    return true;
}

// Barycentrics b and depth z / w of the triangle's plane at the point. False where the plane is seen edge-on.
template <class T>
DFN_HD bool plane_at(const Seen<T>& s, T b[3], T& depth, T& w) {
    const T inverse = T(1) / s.sum;
    for (int k = 0; k < 3; ++k) b[k] = s.e[k] * inverse;
    w = b[0] * s.c[0].w + b[1] * s.c[1].w + b[2] * s.c[2].w;
    const T z = b[0] * s.c[0].z + b[1] * s.c[1].z + b[2] * s.c[2].z;
    depth = z / w;
    return depth - depth == T(0);
}

// The gradient of a triangle's corners.
template <class T>
struct CornerGradient {
    int64_t corner[3];
    T d[3][4];  // of clip x, y, z, w

    // d_position: adds to the rows of the view, which have 4 columns.
    template <class Sum>
    DFN_HD void add_to(const Sum& d_position) const {
        for (int k = 0; k < 3; ++k)
            for (int i = 0; i < 4; ++i) d_position.add(corner[k], i, d[k][i]);
    }
};

// The gradient on the barycentrics of `plane_at` and on its depth as one of the corners.
template <class T>
DFN_HD void plane_backward(
    const Seen<T>& s, const T b[3], T depth, T w, const T d_b[3], T d_depth, CornerGradient<T>& out) {
    T d_e[3], mean = T(0);
    const T per_w = d_depth / w, inverse = T(1) / s.sum;
    for (int k = 0; k < 3; ++k) {
        d_e[k] = d_b[k] + per_w * (s.c[k].z - depth * s.c[k].w);
        mean += d_e[k] * b[k];
    }
    for (int k = 0; k < 3; ++k) d_e[k] = (d_e[k] - mean) * inverse;
    for (int k = 0; k < 3; ++k) {
        const int next = (k + 1) % 3, last = (k + 2) % 3;
        const T dx = d_e[last] * s.y[next] - d_e[next] * s.y[last];
        const T dy = d_e[next] * s.x[last] - d_e[last] * s.x[next];
        out.corner[k] = s.corner[k];
        out.d[k][0] = dx * s.half_width;
        out.d[k][1] = -dy * s.half_height;
        out.d[k][2] = per_w * b[k];
        out.d[k][3] = dx * s.right + dy * s.down - per_w * depth * b[k];
    }
}

}  // namespace dfn
