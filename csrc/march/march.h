// March: the samples of a ray whose cells are occupied, on a lattice of constant step (instant-NGP, appendix E, without
// cascades). Counting and writing are one body run twice, so they agree on every sample. Passes: `classify_block` for
// every block of cells, `spread_distance` along each axis, `march_ray` to count, a scan under the budget, `march_ray`
// to write.
#pragma once
#include "base/hd.h"
#include "base/launch.h"

namespace dfn {

constexpr int kBlockEdge = 4;   // cells along an edge of a block
constexpr int kReach = 6;       // blocks: the longest distance that is recorded
constexpr int kFull = 128;      // flag of a block without an empty cell
constexpr int kLookAhead = 16;  // samples of a ray that the CPU looks up together

template <class T>
struct March {
    const T* rays_o;          // in (rays, 3)
    const T* rays_d;          // in (rays, 3), unit length
    const uint8_t* bitfield;  // in (resolution^3 / 8): cell (ix * resolution + iy) * resolution + iz, low bits first
    uint8_t* blocks;          // scratch (2, (resolution / 4)^3): the distance in blocks to the nearest one that is not
                              // empty (the largest of three axes, at most kReach), and kFull; then room for passes
    int32_t* counts;          // scratch (rays): samples before the budget
    T* t;                     // out (budget): distance along the ray; every output is zero behind the last sample
    int32_t* ray_id;          // out (budget)
    T* x;                     // out (budget, 3): position
    int32_t* offsets;         // out (rays + 1): first row of a ray
    int64_t* info;            // out (2): rows written, samples dropped
    int64_t rays;
    int64_t budget;
    int resolution;  // cells per axis, a multiple of 4
    int max_steps;   // longest lattice
    T bound;         // the scene is [-bound, bound]^3
    T near;          // no sample before this distance
    T step;
    uint64_t seed;          // of the jitter, whose index is the ray
    const int64_t* stream;  // in (1): of the jitter, read when the kernel runs
    bool jittered;          // false: the lattice starts half a step inside

    DFN_FIELDS(rays_o, rays_d, bitfield, blocks, counts, t, ray_id, x, offsets, info, rays, budget, resolution,
        max_steps, bound, near, step, seed, stream, jittered)
};

// What is constant along a ray.
template <class T>
struct RayWalk {
    Vec3<T> o, d;
    Vec3<T> inverse, delay;  // a plane at f along an axis is passed at t = (f - o) * inverse + delay, or a little later
    T start, jitter;         // sample k is at start + (k + jitter) * step
    T inverse_step, slack;   // steps per unit; how many steps early a jump over a cell has to end
    T cells_per_unit, cell;
    int steps;  // lattice points inside the cube
};

template <class T>
DFN_HD T lattice(const March<T>& p, const RayWalk<T>& w, int k) {
    return w.start + rounded_product(T(k) + w.jitter, p.step);
}

template <class T>
DFN_HD Vec3<T> point_at(const RayWalk<T>& w, T t) {
    return {w.o.x + rounded_product(t, w.d.x), w.o.y + rounded_product(t, w.d.y), w.o.z + rounded_product(t, w.d.z)};
}

// Narrows [near, far] to the slab of one axis.
template <class T>
DFN_HD void clip(T o, T d, T bound, T& near, T& far) {
    if (d == T(0)) {
        if (!(o >= -bound && o <= bound)) far = T(-1);
        return;
    }
    const T a = (-bound - o) / d, b = (bound - o) / d;
    const T enter = a < b ? a : b, leave = a < b ? b : a;
    near = near > enter ? near : enter;
    far = far < leave ? far : leave;
}

template <class T>
DFN_HD T smaller(T a, T b) {
    return a < b ? a : b;
}

// 1/d, kept small enough that no product with it overflows; 0 for a ray parallel to the planes.
template <class T>
DFN_HD T bounded_inverse(T d) {
    return d == T(0) ? T(0) : clamp(T(1) / d, T(-1e18), T(1e18));
}

// `delay` of an axis: earlier than the exact crossing by more than all roundings of a position; never where parallel.
template <class T>
DFN_HD T crossing_delay(T o, T inverse, T bound, T epsilon) {
    if (inverse == T(0)) return T(1e30);
    const T reach = (o < 0 ? -o : o) + bound;
    return -T(16) * epsilon * reach * (inverse < 0 ? -inverse : inverse);
}

// How many lattice points lie before `far`: an estimate, made exact.
template <class T>
DFN_HD int count_steps(const March<T>& p, const RayWalk<T>& w, T far) {
    if (!(far > w.start)) return 0;
    int n = int(clamp((far - w.start) * w.inverse_step, T(0), T(p.max_steps)));
    while (n > 0 && !(lattice(p, w, n - 1) < far)) --n;
    while (n < p.max_steps && lattice(p, w, n) < far) ++n;
    return n;
}

template <class T>
DFN_HD RayWalk<T> start_walk(const March<T>& p, int64_t ray) {
    RayWalk<T> w;
    w.o = load3(p.rays_o, ray);
    w.d = load3(p.rays_d, ray);
    const T epsilon = sizeof(T) == 4 ? T(1.2e-7) : T(2.3e-16);
    T near = p.near, far = T(1e30);
    clip(w.o.x, w.d.x, p.bound, near, far);
    clip(w.o.y, w.d.y, p.bound, near, far);
    clip(w.o.z, w.d.z, p.bound, near, far);
    const T sum = w.o.x + w.o.y + w.o.z + w.d.x + w.d.y + w.d.z;
    const bool usable = sum - sum == T(0) && dot(w.d, w.d) > T(0);  // no NaN, no infinity, and a direction
    w.start = near;
    w.jitter = p.jittered ? uniform<T>(p.seed, uint64_t(*p.stream), uint64_t(ray)) : T(0.5);
    w.inverse_step = T(1) / p.step;
    w.steps = usable ? count_steps(p, w, far) : 0;
    w.slack = T(0.01) + T(8) * epsilon * far * w.inverse_step;
    w.inverse = {bounded_inverse(w.d.x), bounded_inverse(w.d.y), bounded_inverse(w.d.z)};
    w.delay.x = crossing_delay(w.o.x, w.inverse.x, p.bound, epsilon);
    w.delay.y = crossing_delay(w.o.y, w.inverse.y, p.bound, epsilon);
    w.delay.z = crossing_delay(w.o.z, w.inverse.z, p.bound, epsilon);
    w.cells_per_unit = T(p.resolution) / (p.bound + p.bound);
    w.cell = (p.bound + p.bound) / T(p.resolution);
    return w;
}

template <class T>
DFN_HD int cell_of(const March<T>& p, const RayWalk<T>& w, T x) {
    return int(clamp(rounded_product(x + p.bound, w.cells_per_unit), T(0), T(p.resolution - 1)));
}

// When the ray leaves the cells [low, low + size) of one axis, at the earliest.
template <class T>
DFN_HD T leaving(const March<T>& p, const RayWalk<T>& w, T o, T inverse, T delay, int low, int size) {
    const T face = T(inverse > T(0) ? low + size : low) * w.cell - p.bound;
    return (face - o) * inverse + delay;
}

DFN_HD bool bit_at(const uint8_t* bits, int64_t i) { return (bits[i >> 3] >> (i & 7)) & 1; }

// Whether sample k is kept; `next` is a later sample before which all samples are like it.
template <class T>
DFN_HD bool occupied_at(const March<T>& p, const RayWalk<T>& w, int k, int& next) {
    const Vec3<T> x = point_at(w, lattice(p, w, k));
    const int ix = cell_of(p, w, x.x), iy = cell_of(p, w, x.y), iz = cell_of(p, w, x.z);
    const int r = p.resolution, row = r / kBlockEdge, bx = ix / kBlockEdge, by = iy / kBlockEdge, bz = iz / kBlockEdge;
    const int block = p.blocks[(bx * row + by) * row + bz], distance = block & ~kFull;
    if (block == 0) {
        next = k + 1;
        return bit_at(p.bitfield, (int64_t(ix) * r + iy) * r + iz);
    }
    // All blocks nearer than `distance` are empty; a full block is alone.
    const int around = distance > 0 ? (distance - 1) * kBlockEdge : 0, size = kBlockEdge + 2 * around;
    const T tx = leaving(p, w, w.o.x, w.inverse.x, w.delay.x, bx * kBlockEdge - around, size);
    const T ty = leaving(p, w, w.o.y, w.inverse.y, w.delay.y, by * kBlockEdge - around, size);
    const T tz = leaving(p, w, w.o.z, w.inverse.z, w.delay.z, bz * kBlockEdge - around, size);
    const T t = smaller(smaller(tx, ty), tz);
    // The first lattice point behind t, rounded up: int() rounds towards zero, and the value is not negative.
    const T jump = clamp((t - w.start) * w.inverse_step - w.jitter - w.slack, T(0), T(p.max_steps));
    const int first = int(jump) + (T(int(jump)) < jump);
    next = first > k + 1 ? first : k + 1;
    return block == kFull;
}

// Walks one ray and returns how many samples it keeps, at most `limit`; keep(k, run) sees them in runs: the samples k,
// k + 1, ..., run of them.
template <class T, class Keep>
DFN_HD int walk_ray(const March<T>& p, const RayWalk<T>& w, int limit, Keep keep) {
    int kept = 0;
    for (int k = 0, next; k < w.steps && kept < limit; k = next) {
        if (!occupied_at(p, w, k, next)) continue;
        const int end = next < w.steps ? next : w.steps, run = end - k < limit - kept ? end - k : limit - kept;
        keep(k, run);
        kept += run;
    }
    return kept;
}

// Writes a run of samples from `row` on.
template <class T>
DFN_HD void write_run(const March<T>& p, const RayWalk<T>& w, int64_t ray, int k, int run, int64_t row) {
    for (int i = 0; i < run; ++i) {
        const T t = lattice(p, w, k + i);
        p.t[row + i] = t;
        p.ray_id[row + i] = int32_t(ray);
        store3(p.x, row + i, point_at(w, t));
    }
}

// walk_ray, and writes the samples to the rows from `row` on unless row < 0.
template <class T>
DFN_HD int march_ray(const March<T>& p, int64_t ray, int64_t row, int limit) {
    if (limit == 0) return 0;
    const RayWalk<T> w = start_walk(p, ray);
    int64_t at = row;
    return walk_ray(p, w, limit, [&](int k, int run) {
        if (row < 0) return;
        write_run(p, w, ray, k, run, at);
        at += run;
    });
}

// The first pass over blocks: 0 or kFull where there are occupied cells, else kReach. Four cells along z are half a
// byte.
template <class T>
DFN_HD void classify_block(const March<T>& p, int64_t b) {
    const int64_t row = p.resolution / kBlockEdge, r = p.resolution;
    const int64_t bx = b / (row * row), by = b / row % row, bz = b % row;
    unsigned any = 0, all = 15;
    for (int64_t ix = bx * kBlockEdge; ix < (bx + 1) * kBlockEdge; ++ix)
        for (int64_t iy = by * kBlockEdge; iy < (by + 1) * kBlockEdge; ++iy) {
            const int64_t i = (ix * r + iy) * r + bz * kBlockEdge;
            const unsigned four = (p.bitfield[i >> 3] >> (i & 7)) & 15u;
            any |= four;
            all &= four;
        }
    p.blocks[row * row * row + b] = all == 15 ? kFull : (any ? 0 : kReach);
}

// A pass along axis 0, 1 or 2, in this order; the distance in three axes is the largest of the three. Even passes read
// the second half of `blocks` and write the first; odd ones do the reverse, so the last one leaves the result in the
// first.
template <class T>
DFN_HD void spread_distance(const March<T>& p, int64_t b, int axis) {
    const int row = p.resolution / kBlockEdge;
    const int64_t all = int64_t(row) * row * row, stride = axis == 0 ? int64_t(row) * row : (axis == 1 ? row : 1);
    const uint8_t* in = p.blocks + (axis == 1 ? 0 : all) + b;
    const int place = int(b / stride % row);
    int best = *in & ~kFull;
    for (int k = 1; k < best; ++k) {
        const int before = place >= k ? in[-k * stride] & ~kFull : kReach;
        const int behind = place + k < row ? in[k * stride] & ~kFull : kReach;
        const int nearest = before < behind ? before : behind;
        if (nearest < best) best = nearest > k ? nearest : k;
    }
    p.blocks[(axis == 1 ? all : 0) + b] = uint8_t((*in & kFull) | best);
}

// A row that holds no sample.
template <class T>
DFN_HD void clear_row(const March<T>& p, int64_t row) {
    p.t[row] = T(0);
    p.ray_id[row] = 0;
    store3(p.x, row, Vec3<T>{T(0), T(0), T(0)});
}

// The budget: every ray keeps at most `cap` samples, its nearest ones.
DFN_HD int capped(int count, int64_t cap) { return count < cap ? count : int(cap); }

DFN_DECLARE(march, March)

}  // namespace dfn
