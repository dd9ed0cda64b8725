// Antialias: the mean of samples^2 pixels, and the gradient of what is seen where by the position of vertices.
//
// Between two neighbouring pixels L, R that show different triangles lies an edge of what is seen. If it moves by dx
// from L to R, the loss changes by sum_c (I_L - I_R) (G_L + G_R) / 2 dx, where G is the gradient on the image: -g dx.
// Horizontal pairs see the movement along x, vertical ones along y, and together they sum to the integral of the normal
// movement along the edge (Pidhorskyi et al. 2024, "Rasterized edge gradients", who write g to the pixel's
// barycentrics; here it goes to the point of the edge between the two centres, and an intersection of two triangles is
// weighted by its direction, so that its two kinds of pairs sum to the integral too).
#pragma once
#include "raster/screen.h"

namespace dfn {

template <class T>
struct Antialias {
    const T* image;  // in (views, height, width, channels)
    T* out;          // out (views, height / samples, width / samples, channels)
    int64_t views;
    int height, width, channels, samples;

    DFN_FIELDS(image, out, views, height, width, channels, samples)
};

template <class T>
struct AntialiasBackward {
    Mesh<T> mesh;
    const int32_t* face;                   // in (views, height, width)
    const T* image;                        // in (views, height, width, channels)
    const T* d_out;                        // in (views, height / samples, width / samples, channels)
    T* d_image;                            // out (views, height, width, channels); null: not wanted
    T* d_position;                         // out (views, vertices, 4); null: not wanted
    int channels, samples, rows, columns;  // rows, columns: height / samples, width / samples

    DFN_FIELDS(mesh, face, image, d_out, d_image, d_position, channels, samples, rows, columns)
};

template <class T>
DFN_HD T sample_weight(int samples) {
    return T(1) / T(samples * samples);
}

template <class T>
DFN_HD void antialias_pixel(const Antialias<T>& p, int64_t view, int y, int x, T* out) {
    for (int c = 0; c < p.channels; ++c) out[c] = T(0);
    for (int i = 0; i < p.samples; ++i) {
        const int64_t row = (view * p.height + y * p.samples + i) * p.width + int64_t(x) * p.samples;
        const T* in = p.image + row * p.channels;
        for (int k = 0; k < p.samples; ++k)
            for (int c = 0; c < p.channels; ++c) out[c] += in[k * p.channels + c];
    }
    for (int c = 0; c < p.channels; ++c) out[c] *= sample_weight<T>(p.samples);
}

// The gradient on the mean at a pixel of the image.
template <class T>
DFN_HD const T* d_mean_at(const AntialiasBackward<T>& p, int64_t view, int y, int x) {
    const int row = p.samples == 1 ? y : int(unsigned(y) / unsigned(p.samples));  // a division takes long
    const int column = p.samples == 1 ? x : int(unsigned(x) / unsigned(p.samples));
    return p.d_out + ((view * p.rows + row) * p.columns + column) * p.channels;
}

// Whether a point is clearly outside: on different sides of two edges, by more than any rounding.
template <class T>
DFN_HD bool clearly_outside(ScreenPoint<T> a, ScreenPoint<T> b, ScreenPoint<T> c, T x, T y) {
    const T ax = a.x - x, ay = a.y - y, bx = b.x - x, by = b.y - y, cx = c.x - x, cy = c.y - y;
    const T ab = ax * by - bx * ay, bc = bx * cy - cx * by, ca = cx * ay - ax * cy;
    const T reach = size_of(ax) + size_of(ay) + size_of(bx) + size_of(by) + size_of(cx) + size_of(cy);
    const T margin = (sizeof(T) == 4 ? T(1e-6) : T(1e-14)) * reach * reach;
    return least(ab, bc, ca) < -margin && most(ab, bc, ca) > margin;
}

// Whether the centre (x, y) is inside a triangle on the screen, with the arithmetic of rasterise: whoever is drawn
// there is. Triangles across the near plane are never inside.
template <class T>
DFN_HD bool covers(const Mesh<T>& m, int64_t view, int64_t triangle, T x, T y) {
    int64_t v[3];
    if (!corners_of(m.faces, m.triangles, m.vertices, triangle, v)) return false;
    const int64_t base = view * m.vertices;
    const ScreenPoint<T> a = load_screen(m, base + v[0]), b = load_screen(m, base + v[1]);
    const ScreenPoint<T> c = load_screen(m, base + v[2]);
    if (a.place != T(kBefore) || b.place != T(kBefore) || c.place != T(kBefore)) return false;
    if (clearly_outside(a, b, c, x, y)) return false;
    const double area = signed_area(a, b, c);
    if (area == 0) return false;
    const Edge<T> ab = edge_between(a, b, area > 0), bc = edge_between(b, c, area > 0);
    const Edge<T> ca = edge_between(c, a, area > 0);
    return is_inside(ab, edge_value(ab, x, y)) && is_inside(bc, edge_value(bc, x, y)) &&
           is_inside(ca, edge_value(ca, x, y));
}

DFN_HD bool share_vertex(const int32_t* faces, int64_t a, int64_t b) {
    for (int i = 0; i < 3; ++i)
        for (int k = 0; k < 3; ++k)
            if (faces[3 * a + i] == faces[3 * b + k]) return true;
    return false;
}

// Two neighbouring pixels: L at (x, y), R one further along `axis` (0: x, 1: y).
struct Pair {
    int64_t left, right;  // triangles, -1: none
    int x, y, axis;
};

// dL/d(x of the edge) to the edge of `triangle` between the centre of its own pixel and the other one's.
template <class Sum, class T>
DFN_HD void move_edge(
    const Mesh<T>& m, int64_t view, const Pair& pair, bool own_left, T d_edge, const Sum& d_position) {
    const T x = T(pair.x), y = T(pair.y), right = T(pair.axis == 0), down = T(pair.axis == 1);
    const T own = T(own_left ? 0 : 1), other = T(own_left ? 1 : 0);
    const int64_t triangle = own_left ? pair.left : pair.right;
    Seen<T> here, there;
    if (!look_at(m, view, triangle, x + own * right, y + own * down, here)) return;
    look_at(m, view, triangle, x + other * right, y + other * down, there);
    const T sign = here.sum > T(0) ? T(1) : T(-1);
    T t = T(1);
    bool leaves = false;
    for (int k = 0; k < 3; ++k) {
        const T inside = max0(sign * here.e[k]), outside = sign * there.e[k];
        if (!(outside < T(0))) continue;
        const T crossing = inside / (inside - outside);
        t = crossing < t ? crossing : t;
        leaves = true;
    }
    if (!leaves) t = T(0.5);  // the last bit of a rounding
    const T at = own + t * (other - own);
    Seen<T> s;
    T b[3], depth, w;
    if (!look_at(m, view, triangle, x + at * right, y + at * down, s) || !plane_at(s, b, depth, w)) return;
    const T scale = pair.axis == 0 ? s.half_width : -s.half_height, shift = pair.axis == 0 ? s.right : s.down;
    for (int k = 0; k < 3; ++k) {
        // The point keeps its place on the edge as seen, so that a vertex scaled with its w moves nothing. A vertex
        // behind the near plane has no place on the screen: there the point keeps its place in space.
        const Clip<T> c = s.c[k];
        const bool before = c.w > T(0) && c.z >= -c.w;
        const T weight = d_edge * b[k] / w;
        d_position.add(s.corner[k], pair.axis, weight * scale);
        d_position.add(s.corner[k], 3, weight * (before ? -scale * (pair.axis == 0 ? c.x : c.y) / c.w : shift));
    }
}

// Depth of a triangle's plane at a point; false where it has none.
template <class T>
DFN_HD bool depth_at(const Mesh<T>& m, int64_t view, int64_t triangle, T x, T y, T& depth) {
    Seen<T> s;
    T b[3], w;
    return look_at(m, view, triangle, x, y, s) && plane_at(s, b, depth, w);
}

template <class Sum, class T>
DFN_HD void move_depth(const Mesh<T>& m, int64_t view, int64_t triangle, T x, T y, T d_depth, const Sum& d_position) {
    Seen<T> s;
    T b[3], depth, w;
    const T none[3] = {T(0), T(0), T(0)};
    CornerGradient<T> gradient;
    if (!look_at(m, view, triangle, x, y, s) || !plane_at(s, b, depth, w)) return;
    plane_backward(s, b, depth, w, none, d_depth, gradient);
    gradient.add_to(d_position);
}

// The edge is where two triangles meet in depth: D = depth of L's - depth of R's is 0 there.
template <class Sum, class T>
DFN_HD void move_intersection(const Mesh<T>& m, int64_t view, const Pair& pair, T g, const Sum& d_position) {
    const T x = T(pair.x), y = T(pair.y), right = T(pair.axis == 0), down = T(pair.axis == 1);
    T l[3], r[3];
    if (!depth_at(m, view, pair.left, x, y, l[0]) || !depth_at(m, view, pair.right, x, y, r[0]) ||
        !depth_at(m, view, pair.left, x + right, y + down, l[1]) ||
        !depth_at(m, view, pair.right, x + right, y + down, r[1]) ||
        !depth_at(m, view, pair.left, x + down, y + right, l[2]) ||
        !depth_at(m, view, pair.right, x + down, y + right, r[2]))
        return;
    const T here = l[0] - r[0], along = (l[1] - r[1]) - here, across = (l[2] - r[2]) - here;
    const T rounding = sizeof(T) == 4 ? T(1e-6) : T(1e-14);
    if (!(along > rounding)) return;  // the two are in one plane
    const T d_difference = g * along / (along * along + across * across), t = clamp(-here / along, T(0), T(1));
    move_depth(m, view, pair.left, x + t * right, y + t * down, d_difference, d_position);
    move_depth(m, view, pair.right, x + t * right, y + t * down, -d_difference, d_position);
}

// Whose edge lies between two pixels neither of whose centres is in the other's triangle: nobody's between neighbours
// on a surface. Where background triangles are as small as pixels, an edge of what is before them looks the same; there
// the depth jumps by more than the slopes of the two explain.
template <class T>
DFN_HD int jump_between(const Mesh<T>& m, int64_t view, const Pair& pair) {
    if (share_vertex(m.faces, pair.left, pair.right)) return 0;
    const T x = T(pair.x), y = T(pair.y), right = T(pair.axis == 0), down = T(pair.axis == 1);
    T l, r, l_there, r_there;
    if (!depth_at(m, view, pair.left, x, y, l) || !depth_at(m, view, pair.left, x + right, y + down, l_there) ||
        !depth_at(m, view, pair.right, x, y, r_there) || !depth_at(m, view, pair.right, x + right, y + down, r))
        return 0;
    const T slope_l = l_there > l ? l_there - l : l - l_there, slope_r = r_there > r ? r_there - r : r - r_there;
    const T slope = slope_l > slope_r ? slope_l : slope_r, jump = r > l ? r - l : l - r;
    return jump > T(2) * slope + (sizeof(T) == 4 ? T(1e-6) : T(1e-14)) ? (l < r ? -1 : 1) : 0;
}

template <class Sum, class T>
DFN_HD void pair_backward(const Mesh<T>& m, int64_t view, const Pair& pair, T g, const Sum& d_position) {
    const int right = pair.x + (pair.axis == 0), down = pair.y + (pair.axis == 1);
    const bool only_left = pair.right < 0, only_right = pair.left < 0, two = !only_left && !only_right;
    const bool under_r = two && covers(m, view, pair.right, T(pair.x), T(pair.y));
    const bool under_l = two && covers(m, view, pair.left, T(right), T(down));
    if (under_r && under_l) {
        move_intersection(m, view, pair, g, d_position);
        return;
    }
    const int jump = two && !under_r && !under_l ? jump_between(m, view, pair) : 0;
    if (only_left || under_r || jump < 0) move_edge(m, view, pair, true, -g, d_position);
    if (only_right || under_l || jump > 0) move_edge(m, view, pair, false, -g, d_position);
}

// g of two neighbouring pixels, (I_R - I_L) (G_L + G_R) / 2 over the channels.
template <int kChannels, class T>
DFN_HD T pair_gradient(const AntialiasBackward<T>& p, int64_t pixel, int64_t next, const T* g_l, const T* g_r) {
    const int channels = kChannels ? kChannels : p.channels;
    const T *i_l = p.image + pixel * channels, *i_r = p.image + next * channels;
    T g = T(0);
    for (int c = 0; c < channels; ++c) g += (i_r[c] - i_l[c]) * (g_l[c] + g_r[c]);
    return g;
}

// The edge between a pixel and the next one along `axis` (0: x, 1: y), which must be in the picture. kChannels: their
// number, 0 where it is not known ahead.
template <int kChannels, class Sum, class T>
DFN_HD void antialias_pair_backward(
    const AntialiasBackward<T>& p, int64_t view, int y, int x, int axis, const Sum& d_position) {
    const Mesh<T>& m = p.mesh;
    const int64_t pixel = (view * m.height + y) * m.width + x, next = pixel + (axis == 0 ? 1 : m.width);
    const auto known = [&](int64_t f) { return f >= 0 && f < m.triangles ? f : int64_t(-1); };
    const int64_t here = known(p.face[pixel]), there = known(p.face[next]);
    if (here == there) return;
    const T* const own = d_mean_at(p, view, y, x);
    const T* const other = d_mean_at(p, view, y + (axis == 1), x + (axis == 0));
    const T total = pair_gradient<kChannels>(p, pixel, next, own, other);
    if (total == T(0)) return;
    pair_backward(m, view, Pair{here, there, x, y, axis}, T(0.5) * sample_weight<T>(p.samples) * total, d_position);
}

// The gradient on the mean, to the samples.
template <class T>
DFN_HD void antialias_pixel_spread(const AntialiasBackward<T>& p, int64_t pixel, int64_t view, int y, int x) {
    const T *const g = d_mean_at(p, view, y, x), weight = sample_weight<T>(p.samples);
    for (int c = 0; c < p.channels; ++c) p.d_image[pixel * p.channels + c] = weight * g[c];
}

// d_position: adds to the rows of the view.
template <int kChannels, class Sum, class T>
DFN_HD void antialias_edges_backward(const AntialiasBackward<T>& p, int64_t view, int y, int x, const Sum& d_position) {
    if (x + 1 < p.mesh.width) antialias_pair_backward<kChannels>(p, view, y, x, 0, d_position);
    if (y + 1 < p.mesh.height) antialias_pair_backward<kChannels>(p, view, y, x, 1, d_position);
}

DFN_DECLARE(antialias, Antialias)
DFN_DECLARE(antialias_backward, AntialiasBackward)

}  // namespace dfn
