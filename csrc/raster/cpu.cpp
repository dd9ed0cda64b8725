// Rasterise, interpolate and antialias on the CPU: threads around the vector loops of simd_raster.cpp, or in float64
// the bodies of the headers. A band of rows of a view is one thread's, so the nearest triangle needs no atomics.
#include <algorithm>
#include <vector>

#include "raster/scatter.h"
#include "simd_kernels.h"

namespace dfn::cpu {
namespace {

constexpr int64_t kRowsTogether = 8;     // where a row needs no other
constexpr int64_t kTriangles = 1 << 12;  // that are sorted into bands together

const RasterKernels& vectors() { return *simd_kernels().raster; }

void rows_of(const Rasterise<float>& p, int64_t view, int64_t begin, int64_t end, RowRange* rows) {
    vectors().rows_of(p, view, begin, end, rows);
}

void rows_of(const Rasterise<double>& p, int64_t view, int64_t begin, int64_t end, RowRange* rows) {
    for (int64_t f = begin; f < end; ++f) {
        int top = p.mesh.height, bottom = -1;
        for_each_piece(p.mesh, view, f, [&](auto a, auto b, auto c) {
            Coverage<double> s;
            if (!set_up(a, b, c, p.mesh.height, p.mesh.width, p.cull, s)) return;
            top = std::min(top, s.top);
            bottom = std::max(bottom, s.bottom);
        });
        rows[f - begin] = {int16_t(std::min(top, bottom + 1)), int16_t(bottom)};
    }
}

// The triangles of every band of every view, in their order: those of a chunk of triangles together.
class Bands {
public:
    template <class T>
    Bands(const Rasterise<T>& p, const Exec& e)
        : bands_((p.mesh.height + kBand - 1) / kBand),
          chunks_((p.mesh.triangles + kTriangles - 1) / kTriangles),
          sorted_(p.mesh.views * chunks_) {
        for_each(int64_t(sorted_.size()), e, [&](int64_t i) { sort(p, i / chunks_, i % chunks_, sorted_[i]); }, 1);
    }

    int64_t per_view() const { return bands_; }

    // fn(triangles, their number) for the chunks of a view, in their order.
    template <class Fn>
    void for_each_chunk(int64_t view, int64_t band, Fn fn) const {
        for (int64_t i = view * chunks_; i < (view + 1) * chunks_; ++i) {
            const Chunk& c = sorted_[i];
            if (c.starts[band + 1] > c.starts[band])
                fn(c.triangles.data() + c.starts[band], c.starts[band + 1] - c.starts[band]);
        }
    }

private:
    struct Chunk {
        std::vector<int32_t> triangles;
        std::vector<int64_t> starts;  // a band each, and the end
    };

    template <class T>
    void sort(const Rasterise<T>& p, int64_t view, int64_t chunk, Chunk& out) const {
        RowRange rows[kTriangles];
        const int64_t first = chunk * kTriangles, count = std::min(kTriangles, p.mesh.triangles - first);
        rows_of(p, view, first, first + count, rows);
        const auto for_each_entry = [&](auto fn) {
            for (int64_t i = 0; i < count; ++i)
                if (rows[i].top <= rows[i].bottom)
                    for (int band = rows[i].top / kBand; band <= rows[i].bottom / kBand; ++band) fn(i, band);
        };
        std::vector<int64_t> next(bands_ + 1);
        for_each_entry([&](int64_t, int band) { ++next[band + 1]; });
        for (int64_t band = 0; band < bands_; ++band) next[band + 1] += next[band];
        out.starts = next;
        out.triangles.resize(next[bands_]);
        for_each_entry([&](int64_t i, int band) { out.triangles[next[band]++] = int32_t(first + i); });
    }

    int64_t bands_, chunks_;
    std::vector<Chunk> sorted_;
};

void draw_band(const Rasterise<float>& p, const Bands& bands, int64_t view, int64_t band) {
    const int top = int(band) * kBand;
    const size_t size = kBand * Tiles::padded_width(p.mesh.width);
    thread_local std::vector<float> depth;
    thread_local std::vector<int32_t> face;
    if (depth.size() < size) depth.resize(size), face.resize(size);
    const Tiles tiles{depth.data(), face.data()};
    vectors().clear(tiles, p.mesh.width);
    bands.for_each_chunk(view, band,
        [&](const int32_t* triangles, int64_t count) { vectors().draw(p, view, top, triangles, count, tiles); });
    vectors().finish(p, view, top, tiles);
}

void draw_band(const Rasterise<double>& p, const Bands& bands, int64_t view, int64_t band) {
    const Mesh<double>& m = p.mesh;
    const int top = int(band) * kBand, bottom = std::min(top + kBand, m.height) - 1;
    const int64_t first = (view * m.height + top) * m.width, size = int64_t(bottom - top + 1) * m.width;
    std::fill(p.face + first, p.face + first + size, -1);
    const auto draw = [&](int32_t f) {
        for_each_piece(m, view, f, [&](auto a, auto b, auto c) {
            Coverage<double> s;
            if (!set_up(a, b, c, m.height, m.width, p.cull, s)) return;
            const DepthPlane<double> plane = depth_plane(a, b, c, s.area);
            for (int y = std::max(top, s.top); y <= std::min(bottom, s.bottom); ++y)
                for (int x = s.left; x <= s.right; ++x) {
                    if (!is_covered(s, x, y)) continue;
                    const double depth = plane(x, y);
                    const int64_t pixel = (view * m.height + y) * m.width + x;
                    if (!(depth <= 1)) continue;
                    if (p.face[pixel] >= 0 && !(depth < p.depth[pixel])) continue;  // triangles come in order
                    p.face[pixel] = f;
                    p.depth[pixel] = depth;
                }
        });
    };
    bands.for_each_chunk(view, band,
        [&](const int32_t* triangles, int64_t count) { std::for_each(triangles, triangles + count, draw); });
    for (int y = top; y <= bottom; ++y)
        for (int x = 0; x < m.width; ++x) finish_pixel(p, (view * m.height + y) * m.width + x, view, y, x);
}

void project(const Mesh<float>& m, const Exec& e) {
    parallel_for(
        m.views * m.vertices, e.threads, [&](int64_t begin, int64_t end) { vectors().project(m, begin, end); });
}

void project(const Mesh<double>& m, const Exec& e) {
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

// Rows [begin, end) of pixels of all views.
void rasterise_rows_backward(
    const RasteriseBackward<float>& p, int64_t begin, int64_t end, const SparseRows<float>& d_position) {
    vectors().rasterise_backward(p, begin, end, d_position);
}

void rasterise_rows_backward(
    const RasteriseBackward<double>& p, int64_t begin, int64_t end, const SparseRows<double>& d_position) {
    for_rows(begin, end, p.mesh.height, p.mesh.width, [&](int64_t pixel, int64_t view, int y, int x) {
        CornerGradient<double> gradient;
        if (rasterise_pixel_backward(p, pixel, view, y, x, gradient)) gradient.add_to(d_position);
    });
}

void interpolate_rows(const Interpolate<float>& p, int64_t begin, int64_t end) { vectors().interpolate(p, begin, end); }

void interpolate_rows(const Interpolate<double>& p, int64_t begin, int64_t end) {
    for_rows(begin, end, p.height, p.width,
        [&](int64_t pixel, int64_t view, int, int) { interpolate_pixel(p, pixel, view); });
}

void interpolate_rows_backward(
    const InterpolateBackward<float>& p, int64_t begin, int64_t end, const SparseRows<float>& d_attribute) {
    vectors().interpolate_backward(p, begin, end, d_attribute);
}

void interpolate_rows_backward(
    const InterpolateBackward<double>& p, int64_t begin, int64_t end, const SparseRows<double>& d_attribute) {
    for_rows(begin, end, p.forward.height, p.forward.width,
        [&](int64_t pixel, int64_t view, int, int) { interpolate_pixel_backward(p, pixel, view, d_attribute); });
}

void antialias_rows_backward(
    const AntialiasBackward<float>& p, int64_t begin, int64_t end, const SparseRows<float>& d_position) {
    vectors().antialias_backward(p, begin, end, d_position);
}

void antialias_rows_backward(
    const AntialiasBackward<double>& p, int64_t begin, int64_t end, const SparseRows<double>& d_position) {
    for_rows(begin, end, p.mesh.height, p.mesh.width,
        [&](int64_t, int64_t view, int y, int x) { antialias_edges_backward<0>(p, view, y, x, d_position); });
}

}  // namespace

template <class T>
void rasterise(const Rasterise<T>& p, const Exec& e) {
    project(p.mesh, e);
    const Bands bands(p, e);
    const int64_t all = p.mesh.views * bands.per_view();
    for_each(all, e, [&](int64_t i) { draw_band(p, bands, i / bands.per_view(), i % bands.per_view()); }, 1);
}

template <class T>
void rasterise_backward(const RasteriseBackward<T>& p, const Exec& e) {
    const Mesh<T>& m = p.mesh;
    sum_rows(m.views, m.height, m.vertices, 4, p.d_position, e,
        [&](int64_t begin, int64_t end, const SparseRows<T>& target) {
            rasterise_rows_backward(p, begin, end, target);
        });
}

template <class T>
void interpolate(const Interpolate<T>& p, const Exec& e) {
    parallel_for(
        p.views * p.height, e.threads, [&](int64_t begin, int64_t end) { interpolate_rows(p, begin, end); },
        kRowsTogether);
}

template <class T>
void interpolate_backward(const InterpolateBackward<T>& p, const Exec& e) {
    const Interpolate<T>& f = p.forward;
    const auto rows = [&](int64_t begin, int64_t end, const SparseRows<T>& target) {
        interpolate_rows_backward(p, begin, end, target);
    };
    const SparseRows<T> unwanted{nullptr, 0, nullptr};
    if (p.d_attribute)
        sum_rows(f.shared ? 1 : f.views, f.shared ? f.views * f.height : f.height, f.vertices, f.channels,
            p.d_attribute, e, rows);
    else
        parallel_for(
            f.views * f.height, e.threads, [&](int64_t begin, int64_t end) { rows(begin, end, unwanted); },
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
    const auto spread = [&](int64_t begin, int64_t end) {
        for_rows(begin, end, m.height, m.width,
            [&](int64_t pixel, int64_t view, int y, int x) { antialias_pixel_spread(p, pixel, view, y, x); });
    };
    if (p.d_image) parallel_for(m.views * m.height, e.threads, spread, kRowsTogether);
    if (!p.d_position) return;
    project(m, e);
    sum_rows(m.views, m.height, m.vertices, 4, p.d_position, e,
        [&](int64_t begin, int64_t end, const SparseRows<T>& target) {
            antialias_rows_backward(p, begin, end, target);
        });
}

DFN_INSTANTIATE_CPU(rasterise, Rasterise);
DFN_INSTANTIATE_CPU(rasterise_backward, RasteriseBackward);
DFN_INSTANTIATE_CPU(interpolate, Interpolate);
DFN_INSTANTIATE_CPU(interpolate_backward, InterpolateBackward);
DFN_INSTANTIATE_CPU(antialias, Antialias);
DFN_INSTANTIATE_CPU(antialias_backward, AntialiasBackward);

}  // namespace dfn::cpu
