// Occupancy on the CPU: threads around the bodies of occupancy.h.
#include "base/loops.h"
#include "occupancy/occupancy.h"

namespace dfn::cpu {

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

DFN_INSTANTIATE_CPU(occupancy_update, Occupancy);
DFN_INSTANTIATE_CPU(cell_points, CellPoints);

}  // namespace dfn::cpu
