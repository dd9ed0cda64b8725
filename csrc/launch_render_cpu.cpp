// CPU launchers of march, occupancy, shade, composite and adam: threads around the bodies. A result depends on its
// chunk alone, and what crosses chunks is summed in a fixed order or counted in integers: bit-identical for any number
// of threads.
#include <algorithm>
#include <atomic>
#include <memory>

#include "base/parallel.h"
#include "ops.h"
#include "simd_kernels.h"

namespace dfn::cpu {
namespace {

constexpr int64_t kRays = 128;   // per chunk: rays differ in length
constexpr int64_t kRows = 1024;  // per chunk, whole blocks of the vector loops

// body(i) for every i of [0, n).
template <class Body>
void for_each(int64_t n, const Exec& e, Body body, int64_t grain = 1024) {
    parallel_for(
        n, e.threads,
        [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) body(i);
        },
        grain);
}

// The sum over all i of [0, n) of the integers body(i).
template <class Body>
int64_t sum_of(int64_t n, const Exec& e, Body body, int64_t grain = 4096) {
    std::atomic<int64_t> total{0};
    parallel_for(
        n, e.threads,
        [&](int64_t begin, int64_t end) {
            int64_t sum = 0;
            for (int64_t i = begin; i < end; ++i) sum += body(i);
            total += sum;
        },
        grain);
    return total;
}

template <class T>
int64_t total_under(const March<T>& p, int64_t cap) {
    int64_t total = 0;
    for (int64_t r = 0; r < p.rays; ++r) total += capped(p.counts[r], cap);
    return total;
}

// Samples before the budget -> offsets and info, with the largest cap for which all rays together fit.
template <class T>
void scan_counts(const March<T>& p) {
    const int64_t total = total_under(p, INT32_MAX);
    int64_t fits = 0, above = p.max_steps + int64_t(1);
    if (total <= p.budget)
        fits = p.max_steps;
    else
        while (above - fits > 1) {
            const int64_t middle = (fits + above) / 2;
            (total_under(p, middle) <= p.budget ? fits : above) = middle;
        }
    int64_t row = 0;
    for (int64_t r = 0; r < p.rays; ++r) p.offsets[r] = int32_t(row), row += capped(p.counts[r], fits);
    p.offsets[p.rays] = int32_t(row);
    p.info[0] = row, p.info[1] = total - row;
}

// The samples of a ray as stretches of its lattice, kept from counting to writing: the walk between them takes longer
// than all else. A ray with more stretches than there is room for is walked again.
struct Stretches {
    static constexpr int kRoom = 7;
    int32_t count, first[kRoom], length[kRoom];

    void add(int k, int run) {
        if (count > 0 && count <= kRoom && first[count - 1] + length[count - 1] == k) {
            length[count - 1] += run;
            return;
        }
        if (count < kRoom) first[count] = k, length[count] = run;
        count = std::min(count + 1, kRoom + 1);
    }
};

int count_ray(const March<double>& p, int64_t ray, Stretches& s) {
    s.count = 0;
    return walk_ray(p, start_walk(p, ray), INT32_MAX, [&](int k, int run) { s.add(k, run); });
}

// As walk_ray; but where a walk would go on to the very next sample, that one and those behind it are looked up
// together.
int count_ray(const March<float>& p, int64_t ray, Stretches& s) {
    const SimdKernels& simd = simd_kernels();
    const RayWalk<float> w = start_walk(p, ray);
    int kept = 0;
    const auto keep = [&](int k, int end) {
        const int run = std::min(end, w.steps) - k;
        if (run > 0) s.add(k, run), kept += run;
    };
    s.count = 0;
    for (int k = 0, next; k < w.steps; k = next) {
        if (occupied_at(p, w, k, next)) keep(k, next);
        if (next > k + 1 || next >= w.steps) continue;
        for (uint32_t bits = simd.occupied_ahead(p, w, next), i = 0; bits >> i; ++i) {
            if (!(bits >> i & 1)) continue;
            const uint32_t first = i;
            while (bits >> i & 1) ++i;
            keep(next + int(first), next + int(i));
        }
        next += kLookAhead;
    }
    return kept;
}

template <class T>
void write_ray(const March<T>& p, int64_t ray, const Stretches& s) {
    int64_t row = p.offsets[ray];
    const int64_t end = p.offsets[ray + 1];
    if (row == end) return;
    if (s.count > Stretches::kRoom) {
        march_ray(p, ray, row, int(end - row));
        return;
    }
    const RayWalk<T> w = start_walk(p, ray);
    for (int i = 0; row < end; ++i) {
        const int run = int(std::min<int64_t>(s.length[i], end - row));
        write_run(p, w, ray, s.first[i], run, row);
        row += run;
    }
}

// Rows, rays or parameters [begin, end): float32 by the vector loops, float64, which checks derivatives, by the bodies.
void shade_range(const Shade<float>& p, int64_t begin, int64_t end) { simd_kernels().shade(p, begin, end); }

void shade_range(const Shade<double>& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) shade_sample(p, i);
}

void shade_range(const ShadeBackward<float>& p, int64_t begin, int64_t end) {
    simd_kernels().shade_backward(p, begin, end);
}

void shade_range(const ShadeBackward<double>& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) shade_sample_backward(p, i);
}

void composite_range(const Composite<float>& p, int64_t begin, int64_t end) { simd_kernels().composite(p, begin, end); }

void composite_range(const Composite<double>& p, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) composite_ray(p, r);
}

void composite_range(const CompositeBackward<float>& p, int64_t begin, int64_t end) {
    simd_kernels().composite_backward(p, begin, end);
}

void composite_range(const CompositeBackward<double>& p, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) composite_ray_backward(p, r);
}

int64_t adam_range(const Adam<float>& p, int64_t begin, int64_t end) { return simd_kernels().adam(p, begin, end); }

int64_t adam_range(const Adam<double>& p, int64_t begin, int64_t end) {
    const AdamFactors<double> f = read_factors(p);
    int64_t bad = 0;
    for (int64_t i = begin; i < end; ++i) bad += adam_element(p, f, i);
    return bad;
}

}  // namespace

template <class T>
void march(const March<T>& p, const Exec& e) {
    const int64_t row = p.resolution / kBlockEdge, blocks = row * row * row;
    for_each(blocks, e, [&](int64_t b) { classify_block(p, b); });
    for (int axis = 0; axis < 3; ++axis) for_each(blocks, e, [&](int64_t b) { spread_distance(p, b, axis); });
    const std::unique_ptr<Stretches[]> kept(new Stretches[p.rays]);
    for_each(p.rays, e, [&](int64_t r) { p.counts[r] = count_ray(p, r, kept[r]); }, kRays);
    scan_counts(p);
    for_each(p.rays, e, [&](int64_t r) { write_ray(p, r, kept[r]); }, kRays);
    for_each(p.budget - p.info[0], e, [&](int64_t i) { clear_row(p, p.info[0] + i); }, 1 << 14);
}

template <class T>
void occupancy_update(const Occupancy<T>& p, const Exec& e) {
    for_each(p.cells, e, [&](int64_t i) { decay_cell(p, i); }, 1 << 14);
    for (int64_t i = 0; i < p.listed; ++i) raise_cell(p, i);  // one thread: a cell may be listed twice
    for (int64_t i = 0; i < p.listed; ++i) mark_cell(p, i);
    for_each(kSumChunks, e, [&](int64_t i) { partial_sum(p, i); }, 64);
    double lanes[kSumLanes];
    for (int lane = 0; lane < kSumLanes; ++lane) lanes[lane] = lane_sum(p, lane);
    for (int reach = kSumLanes / 2; reach; reach /= 2)
        for (int lane = 0; lane < reach; ++lane) fold(lanes, lane, reach);
    set_threshold(p, lanes[0]);
    *p.occupied = sum_of(p.cells / 8, e, [&](int64_t i) { return pack_byte(p, i); });
    if (too_empty(p)) for_each(p.cells / 8, e, [&](int64_t i) { fill_byte(p, i); });
}

template <class T>
void cell_points(const CellPoints<T>& p, const Exec& e) {
    for_each(p.n, e, [&](int64_t i) { cell_point(p, i); });
}

template <class T>
void shade_forward(const Shade<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count);
    parallel_for(live, e.threads, [&](int64_t begin, int64_t end) { shade_range(p, begin, end); }, kRows);
    for_each(p.n - live, e, [&](int64_t i) { clear_sample(p, live + i); });
}

template <class T>
void shade_backward(const ShadeBackward<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.forward.n, p.forward.count);
    parallel_for(live, e.threads, [&](int64_t begin, int64_t end) { shade_range(p, begin, end); }, kRows);
    for_each(p.forward.n - live, e, [&](int64_t i) { clear_sample_backward(p, live + i); });
}

template <class T>
void composite_forward(const Composite<T>& p, const Exec& e) {
    parallel_for(p.rays, e.threads, [&](int64_t begin, int64_t end) { composite_range(p, begin, end); }, kRays);
}

template <class T>
void composite_backward(const CompositeBackward<T>& p, const Exec& e) {
    const int64_t live = rows_in_use(p.forward);
    parallel_for(p.forward.rays, e.threads, [&](int64_t i, int64_t end) { composite_range(p, i, end); }, kRays);
    for_each(p.forward.n - live, e, [&](int64_t i) { clear_gradient(p, live + i); });
}

template <class T>
void adam(const Adam<T>& p, const Exec& e) {
    std::atomic<int64_t> bad{0};
    parallel_for(p.n, e.threads, [&](int64_t begin, int64_t end) { bad += adam_range(p, begin, end); }, 1 << 14);
    *p.nonfinite += bad;
}

#define DFN_INSTANTIATE(op, Params)                             \
    template void op<float>(const Params<float>&, const Exec&); \
    template void op<double>(const Params<double>&, const Exec&);

DFN_INSTANTIATE(march, March)
DFN_INSTANTIATE(occupancy_update, Occupancy)
DFN_INSTANTIATE(cell_points, CellPoints)
DFN_INSTANTIATE(shade_forward, Shade)
DFN_INSTANTIATE(shade_backward, ShadeBackward)
DFN_INSTANTIATE(composite_forward, Composite)
DFN_INSTANTIATE(composite_backward, CompositeBackward)
DFN_INSTANTIATE(adam, Adam)

}  // namespace dfn::cpu
