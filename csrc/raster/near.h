// The near plane: what of a triangle lies before it, as triangles on the screen.
#pragma once
#include "raster/screen.h"

namespace dfn {

// Where the edge from `a`, before the near plane, to `b`, behind it, meets the plane: the same for both triangles.
template <class T>
DFN_HD Clip<T> meet_near(Clip<T> a, Clip<T> b) {
    const T da = a.z + a.w, db = b.z + b.w, t = da / (da - db);
    const T w = a.w + rounded_product(t, b.w - a.w);
    return {a.x + rounded_product(t, b.x - a.x), a.y + rounded_product(t, b.y - a.y), -w, w};
}

// The corners of what lies before the plane: 0, 3 or 4 of them.
template <class T>
DFN_HD int clip_near(const Mesh<T>& m, const int64_t rows[3], ScreenPoint<T> corners[4]) {
    int count = 0;
    for (int k = 0; k < 3; ++k) {
        const int64_t here = rows[k], next = rows[(k + 1) % 3];
        const Clip<T> a = load_clip(m, here), b = load_clip(m, next);
        const ScreenPoint<T> s = load_screen(m, here);
        const bool before = s.place == T(kBefore), next_before = load_screen(m, next).place == T(kBefore);
        if (before) corners[count++] = s;
        if (before == next_before) continue;
        const ScreenPoint<T> cut = to_screen(before ? meet_near(a, b) : meet_near(b, a), m.height, m.width);
        if (cut.place != T(kBefore)) return 0;  // a projection without a near plane before the eye
        corners[count++] = cut;
    }
    return count;
}

// Calls fn(a, b, c) for the one or two triangles that a triangle is on the screen.
template <class T, class Fn>
DFN_HD void for_each_piece(const Mesh<T>& m, int64_t view, int64_t triangle, Fn fn) {
    int64_t rows[3];
    if (!corners_of(m.faces, m.triangles, m.vertices, triangle, rows)) return;
    for (int k = 0; k < 3; ++k) rows[k] += view * m.vertices;
    const ScreenPoint<T> a = load_screen(m, rows[0]), b = load_screen(m, rows[1]), c = load_screen(m, rows[2]);
    if (a.place == T(kBroken) || b.place == T(kBroken) || c.place == T(kBroken)) return;
    if (a.place + b.place + c.place == T(3 * kBefore)) {
        fn(a, b, c);
        return;
    }
    ScreenPoint<T> corners[4];
    const int count = clip_near(m, rows, corners);
    for (int k = 2; k < count; ++k) fn(corners[0], corners[k - 1], corners[k]);
}

}  // namespace dfn
