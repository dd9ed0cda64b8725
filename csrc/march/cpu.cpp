// March on the CPU: threads around the bodies of march.h.
#include <algorithm>
#include <memory>

#include "base/loops.h"
#include "simd_kernels.h"

namespace dfn::cpu {
namespace {

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
    for (int64_t r = 0; r < p.rays; ++r) {
        p.offsets[r] = int32_t(row);
        row += capped(p.counts[r], fits);
    }
    p.offsets[p.rays] = int32_t(row);
    p.info[0] = row;
    p.info[1] = total - row;
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
        if (count < kRoom) {
            first[count] = k;
            length[count] = run;
        }
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
        if (run > 0) {
            s.add(k, run);
            kept += run;
        }
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

DFN_INSTANTIATE_CPU(march, March);

}  // namespace dfn::cpu
