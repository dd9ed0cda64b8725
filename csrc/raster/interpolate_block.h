// Interpolate, pixel by pixel, four channels at a time: `interpolate_pixel` to the bit, and its gradient.
#pragma once
#include "raster/pixels_block.h"

namespace dfn::DFN_SIMD_LEVEL {

// Columns c to c + count of the rows of three vertices.
struct Attributes {
    Floats a[3][4];
};

DFN_HD void load_attributes(const float* attribute, int64_t vertices, int channels, int c, int count,
    const int32_t (*vertex)[kWidth], Attributes& out) {
    for (int k = 0; k < 3; ++k) {
        // Four columns where there are fewer: those of the next row, if there is one.
        const bool last = channels < 3 || bits(equal(load_ints(vertex[k]), splat_int(int32_t(vertices - 1))));
        if (count == 4 || !last)
            gather_fours(attribute + c, vertex[k], out.a[k], channels);
        else
            gather_parts(attribute + c, vertex[k], count, channels, out.a[k]);
    }
}

DFN_HD void load_barycentrics(const float* b, int live, Floats (&out)[3]) {
    if (live == kWidth) return load_threes(b, out);
    alignas(64) float rest[3 * kWidth] = {};
    std::memcpy(rest, b, 3 * sizeof(float) * live);
    load_threes(rest, out);
}

DFN_HD void store_barycentrics(float* b, int live, const Floats (&in)[3]) {
    if (live == kWidth) return store_threes(b, in[0], in[1], in[2]);
    alignas(64) float rest[3 * kWidth];
    store_threes(rest, in[0], in[1], in[2]);
    std::memcpy(b, rest, 3 * sizeof(float) * live);
}

// Columns c to c + count of `live` rows of `channels` floats.
DFN_HD void store_rows(float* p, int channels, int c, int count, int live, const Floats (&in)[4]) {
    if (channels == 3 && live == kWidth) return store_threes(p, in[0], in[1], in[2]);
    alignas(64) float rows[4 * kWidth];
    store_fours(rows, in);
    for (int i = 0; i < live; ++i) store_part(p + int64_t(i) * channels + c, load4(rows + 4 * i), count);
}

// The same, to vectors of each column and to rows of four.
DFN_HD void load_rows(const float* p, int channels, int c, int count, int live, float* rows, Floats (&out)[4]) {
    for (int i = 0; i < 4; ++i)
        out[i] = side_by_side([&](int lane) DFN_INLINE {
            const int row = 4 * lane + i;
            const Four v = row < live ? load_part(p + int64_t(row) * channels + c, count) : Four{};
            store4(rows + 4 * row, v);
            return v;
        });
    transpose_lanes(out);
}

// fn(first pixel, number of them, view) for pieces of at most `most` pixels of rows [begin, end) of all views.
template <class Fn>
DFN_HD void for_pixels(int64_t begin, int64_t end, int height, int width, int most, Fn fn) {
    while (begin < end) {
        const int64_t view = begin / height, last = (view + 1) * height < end ? (view + 1) * height : end;
        for (int64_t pixel = begin * width; pixel < last * width; pixel += most)
            fn(pixel, last * width - pixel < most ? int(last * width - pixel) : most, view);
        begin = last;
    }
}

// kChannels: their number, 0 where it is not known ahead.
template <int kChannels>
DFN_HD void interpolate_rows(const Interpolate<float>& p, int64_t begin, int64_t end) {
    const int channels = kChannels ? kChannels : p.channels;
    const bool nothing = p.triangles == 0 || p.vertices == 0;
    for_pixels(begin, end, p.height, p.width, kPixels, [&](int64_t first, int pixels, int64_t view) DFN_INLINE {
        alignas(64) int32_t vertex[kPixels / kWidth][3][kWidth];
        Mask there[kPixels / kWidth];
        for (int i = 0; i < pixels && !nothing; i += kWidth) {
            const Ints face = load_some(p.face + first + i, lanes_from(i, pixels), -1);
            there[i / kWidth] = vertices_of(p.faces, p.triangles, p.vertices, face, vertex[i / kWidth]);
        }
        for (int i = 0; i < pixels; i += kWidth) {
            const int live = lanes_from(i, pixels);
            const int64_t pixel = first + i;
            float* const out = p.out + pixel * channels;
            if (nothing || !bits(there[i / kWidth])) {
                std::memset(out, 0, sizeof(float) * live * channels);
                continue;
            }
            Floats b[3];
            load_barycentrics(p.barycentric + 3 * pixel, live, b);
            for (int c = 0; c < channels; c += 4) {
                const int count = channels - c < 4 ? channels - c : 4;
                Attributes v;
                load_attributes(attributes_of(p, view), p.vertices, channels, c, count, vertex[i / kWidth], v);
                Floats sum[4];
                for (int k = 0; k < 4; ++k) {
                    const Floats mean = b[0] * v.a[0][k] + b[1] * v.a[1][k] + b[2] * v.a[2][k];
                    sum[k] = select(there[i / kWidth], mean, Floats{});
                }
                store_rows(out, channels, c, count, live, sum);
            }
        }
    });
}

// The gradient on the barycentrics of kWidth pixels, of which `live` count, and their shares.
template <int kChannels>
DFN_HD void interpolate_shares(const InterpolateBackward<float>& p, int64_t pixel, int live, int64_t view, int at,
    int c, Floats (&d_b)[3], Shares& out) {
    const Interpolate<float>& f = p.forward;
    const int channels = kChannels ? kChannels : f.channels, count = channels - c < 4 ? channels - c : 4;
    Attributes v;
    Floats g[4];
    load_rows(p.d_out + pixel * channels, channels, c, count, live, out.value + 4 * at, g);
    load_attributes(attributes_of(f, view), f.vertices, channels, c, count, out.vertex[at / kWidth], v);
    for (int k = 0; k < 3; ++k)
        for (int i = 0; i < count; ++i) d_b[k] += g[i] * v.a[k][i];
}

template <int kChannels>
DFN_HD void interpolate_rows_backward(
    const InterpolateBackward<float>& p, int64_t begin, int64_t end, const SparseRows<float>& d_attribute) {
    const Interpolate<float>& f = p.forward;
    const int channels = kChannels ? kChannels : f.channels;
    const bool nothing = f.triangles == 0 || f.vertices == 0;
    Shares shares;
    for_pixels(begin, end, f.height, f.width, kPixels, [&](int64_t first, int live, int64_t view) DFN_INLINE {
        Floats d_b[kPixels / kWidth][3] = {};
        Mask there[kPixels / kWidth];
        unsigned any = 0;
        for (int i = 0; i < live && !nothing; i += kWidth) {
            const Ints face = load_some(f.face + first + i, lanes_from(i, live), -1);
            Mask& here = there[i / kWidth];
            here = vertices_of(f.faces, f.triangles, f.vertices, face, shares.vertex[i / kWidth]);
            store_ints(shares.face + i, select(here, face, splat_int(-1)));
            any |= bits(here);
        }
        if (!any) {
            std::memset(p.d_barycentric + 3 * first, 0, 3 * sizeof(float) * live);
            return;
        }
        for (int c = 0; c < channels; c += 4) {
            for (int i = 0; i < live; i += kWidth)
                interpolate_shares<kChannels>(p, first + i, lanes_from(i, live), view, i, c, d_b[i / kWidth], shares);
            if (!d_attribute) continue;
            for (int i = 0; i < live && c == 0; i += kWidth) {
                Floats b[3];
                load_barycentrics(f.barycentric + 3 * (first + i), lanes_from(i, live), b);
                const Floats weights[4] = {b[0], b[1], b[2], Floats{}};
                store_fours(shares.weight + 4 * i, weights);
            }
            add_shares(shares, live, c, channels - c < 4 ? channels - c : 4, d_attribute);
        }
        for (int i = 0; i < live; i += kWidth) {
            Floats(&d)[3] = d_b[i / kWidth];
            for (int k = 0; k < 3; ++k) d[k] = select(there[i / kWidth], d[k], Floats{});
            store_barycentrics(p.d_barycentric + 3 * (first + i), lanes_from(i, live), d);
        }
    });
}

template <int n>
struct Known {
    static constexpr int value = n;
};

// Calls fn with the number of channels, as a constant if it is a usual one.
template <class Fn>
DFN_HD void with_channels(int channels, Fn fn) {
    if (channels == 1) return fn(Known<1>());
    if (channels == 3) return fn(Known<3>());
    if (channels == 6) return fn(Known<6>());
    fn(Known<0>());
}

void interpolate(const Interpolate<float>& p, int64_t begin, int64_t end) {
    with_channels(p.channels, [&](auto known) { interpolate_rows<decltype(known)::value>(p, begin, end); });
}

void interpolate_backward(
    const InterpolateBackward<float>& p, int64_t begin, int64_t end, const SparseRows<float>& d_attribute) {
    with_channels(p.forward.channels,
        [&](auto known) { interpolate_rows_backward<decltype(known)::value>(p, begin, end, d_attribute); });
}

}  // namespace dfn::DFN_SIMD_LEVEL
