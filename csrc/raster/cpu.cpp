// Rasterise, interpolate and antialias on the CPU: threads around the bodies of the headers. A band of rows of a view
// is one thread's, so the nearest triangle needs no atomics.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "raster/antialias.h"
#include "raster/interpolate.h"
#include "raster/rasterise.h"
#include "raster/scatter.h"

namespace dfn::cpu {
namespace {

constexpr int kBand = 16;                // rows
constexpr int64_t kRowsTogether = 8;     // where a row needs no other
constexpr int64_t kTriangles = 1 << 12;  // that are sorted into bands together

struct Rows {
    int32_t top, bottom;  // top > bottom: the triangle is not seen
};

template <class T>
Rows rows_of(const Rasterise<T>& p, int64_t view, int64_t triangle) {
    Rows rows{p.mesh.height, -1};
    for_each_piece(p.mesh, view, triangle, [&](auto a, auto b, auto c) {
        Coverage<T> s;
        if (!bound(a, b, c, p.mesh.height, p.mesh.width, s)) return;
        if (p.cull && signed_area(a, b, c) > 0) return;
        rows.top = std::min(rows.top, s.top);
        rows.bottom = std::max(rows.bottom, s.bottom);
    });
    return rows;
}

// The triangles of every band of every view, in their order.
class Bands {
public:
    template <class T>
    Bands(const Rasterise<T>& p, const Exec& e)
        : bands_((p.mesh.height + kBand - 1) / kBand), all_(p.mesh.views * bands_), starts_(all_ + 1) {
        const int64_t triangles = p.mesh.triangles, chunks = (triangles + kTriangles - 1) / kTriangles;
        std::vector<Rows> rows(p.mesh.views * triangles);
        std::vector<int32_t> counts(chunks * all_);  // of a view's chunk: [view][chunk][band]
        const auto for_each_entry = [&](int64_t task, auto fn) {
            const int64_t view = task / chunks, first = task % chunks * kTriangles;
            for (int64_t f = first; f < std::min(first + kTriangles, triangles); ++f) {
                const Rows r = rows[view * triangles + f];
                for (int band = r.top / kBand; band <= r.bottom / kBand && r.top <= r.bottom; ++band) fn(f, band);
            }
        };
        const int64_t tasks = p.mesh.views * chunks;
        const auto sort_rows = [&](int64_t task) {
            const int64_t view = task / chunks, first = task % chunks * kTriangles;
            for (int64_t f = first; f < std::min(first + kTriangles, triangles); ++f)
                rows[view * triangles + f] = rows_of(p, view, f);
            for_each_entry(task, [&](int64_t, int band) { ++counts[task * bands_ + band]; });
        };
        for_each(tasks, e, sort_rows, 1);
        int64_t total = 0;
        std::vector<int64_t> next(counts.size());
        for (int64_t view = 0; view < p.mesh.views; ++view)
            for (int64_t band = 0; band < bands_; ++band) {
                starts_[view * bands_ + band] = total;
                for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                    const int64_t slot = (view * chunks + chunk) * bands_ + band;
                    next[slot] = total;
                    total += counts[slot];
                }
            }
        starts_[all_] = total;
        triangles_.resize(total);
        const auto fill = [&](int64_t task) {
            for_each_entry(task, [&](int64_t f, int band) { triangles_[next[task * bands_ + band]++] = int32_t(f); });
        };
        for_each(tasks, e, fill, 1);
    }

    int64_t count() const { return all_; }
    int64_t per_view() const { return bands_; }
    const int32_t* begin(int64_t band) const { return triangles_.data() + starts_[band]; }
    const int32_t* end(int64_t band) const { return triangles_.data() + starts_[band + 1]; }

private:
    int64_t bands_, all_;
    std::vector<int64_t> starts_;
    std::vector<int32_t> triangles_;
};

constexpr int kTogether = 4;  // pixels of a row that are tested at once

// Bit i: whether the centre (x + i, y) is inside; `is_covered` for kTogether of them, which rounds alike.
unsigned covered(const Coverage<double>& s, int x, int y) {
    unsigned bits = 0;
    for (int i = 0; i < kTogether; ++i) bits |= unsigned(is_covered(s, x + i, y)) << i;
    return bits;
}

#if defined(__GNUC__)
unsigned covered(const Coverage<float>& s, int x, int y) {
    typedef float Floats __attribute__((vector_size(4 * kTogether)));
    typedef int Ints __attribute__((vector_size(4 * kTogether)));
    const Floats px = Floats{0, 1, 2, 3} + float(x);
    Ints inside = {-1, -1, -1, -1};
    for (const Edge<float>& e : s.edge) {
        const Floats value = (px - e.x) * e.dy - rounded_product(float(y) - e.y, e.dx);
        inside &= (value * e.side > 0.0f) | ((value == 0.0f) & -int(e.ties));
    }
    return unsigned(inside[0] & 1) | unsigned(inside[1] & 2) | unsigned(inside[2] & 4) | unsigned(inside[3] & 8);
}
#else
unsigned covered(const Coverage<float>& s, int x, int y) {
    unsigned bits = 0;
    for (int i = 0; i < kTogether; ++i) bits |= unsigned(is_covered(s, x + i, y)) << i;
    return bits;
}
#endif

template <class T>
void draw_band(const Rasterise<T>& p, const Bands& bands, int64_t band) {
    const Mesh<T>& m = p.mesh;
    const int64_t view = band / bands.per_view();
    const int top = int(band % bands.per_view()) * kBand, bottom = std::min(top + kBand, m.height) - 1;
    const int64_t first = (view * m.height + top) * m.width, size = int64_t(bottom - top + 1) * m.width;
    std::fill(p.face + first, p.face + first + size, -1);
    for (const int32_t* f = bands.begin(band); f != bands.end(band); ++f)
        for_each_piece(m, view, *f, [&](auto a, auto b, auto c) {
            Coverage<T> s;
            if (!set_up(a, b, c, m.height, m.width, p.cull, s)) return;
            DepthPlane<T> plane;
            bool seen = false;  // many triangles hold no centre: for them the plane is not asked for
            for (int y = std::max(top, s.top); y <= std::min(bottom, s.bottom); ++y)
                for (int first = s.left; first <= s.right; first += kTogether) {
                    unsigned bits = covered(s, first, y);
                    if (!bits) continue;
                    if (!seen) plane = depth_plane(a, b, c, s.area);
                    seen = true;
                    for (int x = first; bits && x <= s.right; ++x, bits >>= 1) {
                        const T depth = plane(T(x), T(y));
                        const int64_t pixel = (view * m.height + y) * m.width + x;
                        if (!(bits & 1) || !(depth <= T(1))) continue;
                        if (p.face[pixel] >= 0 && !(depth < p.depth[pixel])) continue;  // triangles come in order
                        p.face[pixel] = *f;
                        p.depth[pixel] = depth;
                    }
                }
        });
    for (int y = top; y <= bottom; ++y)
        for (int x = 0; x < m.width; ++x) finish_pixel(p, (view * m.height + y) * m.width + x, view, y, x);
}

template <class T>
void project(const Mesh<T>& m, const Exec& e) {
    for_each(m.views * m.vertices, e, [&](int64_t row) { project_vertex(m, row); });
}

// fn(pixel, view, y, x) for the pixels of rows [begin, end) of all views.
template <class Fn>
void for_rows(int64_t begin, int64_t end, int height, int width, Fn fn) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t view = row / height;
        const int y = int(row % height);
        for (int x = 0; x < width; ++x) fn(row * width + x, view, y, x);
    }
}

}  // namespace

template <class T>
void rasterise(const Rasterise<T>& p, const Exec& e) {
    project(p.mesh, e);
    const Bands bands(p, e);
    for_each(bands.count(), e, [&](int64_t band) { draw_band(p, bands, band); }, 1);
}

template <class T>
void rasterise_backward(const RasteriseBackward<T>& p, const Exec& e) {
    const Mesh<T>& m = p.mesh;
    sum_rows(m.views, m.height, 4 * m.vertices, p.d_position, e, [&](int64_t begin, int64_t end, T* target) {
        CornerGradient<T> sum;  // of neighbouring pixels of one triangle
        int64_t triangle = -1;
        const auto flush = [&] {
            if (triangle >= 0) sum.template add_to<PlainAdd>(target);
        };
        for_rows(begin, end, m.height, m.width, [&](int64_t pixel, int64_t view, int y, int x) {
            CornerGradient<T> one;
            if (!rasterise_pixel_backward(p, pixel, view, y, x, one)) return;
            if (p.face[pixel] == triangle) {
                for (int k = 0; k < 3; ++k)
                    for (int i = 0; i < 4; ++i) sum.d[k][i] += one.d[k][i];
                return;
            }
            flush();
            triangle = p.face[pixel];
            sum = one;
        });
        flush();
    });
}

template <class T>
void interpolate(const Interpolate<T>& p, const Exec& e) {
    const auto rows = [&](int64_t begin, int64_t end) {
        for_rows(begin, end, p.height, p.width,
            [&](int64_t pixel, int64_t view, int, int) { interpolate_pixel(p, pixel, view); });
    };
    parallel_for(p.views * p.height, e.threads, rows, kRowsTogether);
}

template <class T>
void interpolate_backward(const InterpolateBackward<T>& p, const Exec& e) {
    const Interpolate<T>& f = p.forward;
    const auto rows = [&](int64_t begin, int64_t end, T* target) {
        for_rows(begin, end, f.height, f.width, [&](int64_t pixel, int64_t view, int, int) {
            interpolate_pixel_backward<PlainAdd>(p, pixel, view, target);
        });
    };
    if (p.d_attribute)
        sum_rows(f.shared ? 1 : f.views, f.shared ? f.views * f.height : f.height, f.vertices * f.channels,
            p.d_attribute, e, rows);
    else
        parallel_for(
            f.views * f.height, e.threads, [&](int64_t begin, int64_t end) { rows(begin, end, nullptr); },
            kRowsTogether);
}

template <class T>
void antialias(const Antialias<T>& p, const Exec& e) {
    const int64_t height = p.height / p.samples, width = p.width / p.samples;
    if (p.samples == 1) {
        const int64_t row = int64_t(p.width) * p.channels;
        const auto copy = [&](int64_t begin, int64_t end) {
            std::copy(p.image + begin * row, p.image + end * row, p.out + begin * row);
        };
        parallel_for(p.views * height, e.threads, copy, kRowsTogether);
        return;
    }
    for_each(
        p.views * height, e,
        [&](int64_t row) {
            for (int64_t x = 0; x < width; ++x)
                antialias_pixel(p, row / height, int(row % height), int(x), p.out + (row * width + x) * p.channels);
        },
        kRowsTogether);
}

template <class T>
void antialias_backward(const AntialiasBackward<T>& p, const Exec& e) {
    const Mesh<T>& m = p.mesh;
    const auto rows_of = [&](auto channels, int64_t begin, int64_t end, T* target) {
        for_rows(begin, end, m.height, m.width, [&](int64_t, int64_t view, int y, int x) {
            antialias_pixel_backward<decltype(channels)::value, PlainAdd>(p, view, y, x, target);
        });
    };
    const auto rows = [&](int64_t begin, int64_t end, T* target) {
        if (p.channels == 1)
            rows_of(std::integral_constant<int, 1>(), begin, end, target);
        else if (p.channels == 3)
            rows_of(std::integral_constant<int, 3>(), begin, end, target);
        else if (p.channels == 8)  // those of render_mesh
            rows_of(std::integral_constant<int, 8>(), begin, end, target);
        else
            rows_of(std::integral_constant<int, 0>(), begin, end, target);
    };
    if (!p.d_position) {
        parallel_for(
            m.views * m.height, e.threads, [&](int64_t begin, int64_t end) { rows(begin, end, nullptr); },
            kRowsTogether);
        return;
    }
    project(m, e);
    sum_rows(m.views, m.height, 4 * m.vertices, p.d_position, e, rows);
}

DFN_INSTANTIATE_CPU(rasterise, Rasterise);
DFN_INSTANTIATE_CPU(rasterise_backward, RasteriseBackward);
DFN_INSTANTIATE_CPU(interpolate, Interpolate);
DFN_INSTANTIATE_CPU(interpolate_backward, InterpolateBackward);
DFN_INSTANTIATE_CPU(antialias, Antialias);
DFN_INSTANTIATE_CPU(antialias_backward, AntialiasBackward);

}  // namespace dfn::cpu
