// CPU launchers of march, occupancy, shade, composite and adam: threads around the bodies. A result depends on its
// chunk alone, and what crosses chunks is summed in a fixed order or counted in integers: bit-identical for any number
// of threads.
#include <atomic>

#include "ops.h"
#include "parallel.h"
#include "simd_kernels.h"

namespace dfn::cpu {
namespace {

constexpr int64_t kRays = 128;  // per chunk: rays differ in length

// body(i) for every i of [0, n).
template <class Body>
void for_each(int64_t n, const Exec& e, Body body, int64_t grain = 1024) {
    parallel_for(n, e.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) body(i);
    }, grain);
}

// The sum over all i of [0, n) of the integers body(i).
template <class Body>
int64_t sum_of(int64_t n, const Exec& e, Body body, int64_t grain = 4096) {
    std::atomic<int64_t> total{0};
    parallel_for(n, e.threads, [&](int64_t begin, int64_t end) {
        int64_t sum = 0;
        for (int64_t i = begin; i < end; ++i) sum += body(i);
        total += sum;
    }, grain);
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
    if (total <= p.budget) fits = p.max_steps;
    else while (above - fits > 1) {
        const int64_t middle = (fits + above) / 2;
        (total_under(p, middle) <= p.budget ? fits : above) = middle;
    }
    int64_t row = 0;
    for (int64_t r = 0; r < p.rays; ++r) p.offsets[r] = int32_t(row), row += capped(p.counts[r], fits);
    p.offsets[p.rays] = int32_t(row);
    p.info[0] = row, p.info[1] = total - row;
}

int64_t adam_range(const Adam<float>& p, int64_t begin, int64_t end) { return simd_kernels().adam(p, begin, end); }

int64_t adam_range(const Adam<double>& p, int64_t begin, int64_t end) {
    int64_t bad = 0;
    for (int64_t i = begin; i < end; ++i) bad += adam_element(p, i);
    return bad;
}

}  // namespace

template <class T>
void march(const March<T>& p, const Exec& e) {
    const int64_t row = p.resolution / kBlockEdge, blocks = row * row * row;
    for_each(blocks, e, [&](int64_t b) { classify_block(p, b); });
    for (int axis = 0; axis < 3; ++axis) for_each(blocks, e, [&](int64_t b) { spread_distance(p, b, axis); });
    for_each(p.rays, e, [&](int64_t r) { p.counts[r] = march_ray(p, r, -1, INT32_MAX); }, kRays);
    scan_counts(p);
    for_each(p.rays, e, [&](int64_t r) { march_ray(p, r, p.offsets[r], p.offsets[r + 1] - p.offsets[r]); }, kRays);
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
    for_each(p.n, e, [&](int64_t i) { i < live ? shade_sample(p, i) : clear_sample(p, i); });
}

template <class T>
void shade_backward(const ShadeBackward<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.forward.n, p.forward.count);
    for_each(p.forward.n, e, [&](int64_t i) { i < live ? shade_sample_backward(p, i) : clear_sample_backward(p, i); });
}

template <class T>
void composite_forward(const Composite<T>& p, const Exec& e) {
    for_each(p.rays, e, [&](int64_t r) { composite_ray(p, r); }, kRays);
}

template <class T>
void composite_backward(const CompositeBackward<T>& p, const Exec& e) {
    const int64_t live = rows_in_use(p.forward);
    for_each(p.forward.rays, e, [&](int64_t r) { composite_ray_backward(p, r); }, kRays);
    for_each(p.forward.n - live, e, [&](int64_t i) { clear_gradient(p, live + i); });
}

template <class T>
void adam(const Adam<T>& p, const Exec& e) {
    std::atomic<int64_t> bad{0};
    parallel_for(p.n, e.threads, [&](int64_t begin, int64_t end) { bad += adam_range(p, begin, end); }, 1 << 14);
    *p.nonfinite += bad;
}

#define DFN_INSTANTIATE(op, Params)                              \
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
