// Occupancy grid (instant-NGP, appendix E.2): values decay, new densities raise them, bits say which cells the march
// visits. Passes over all cells or over the listed ones, in this order: decay_cell, raise_cell, mark_cell, partial_sum,
// lane_sum and fold (the mean), set_threshold, pack_byte, fill_byte. A non-finite density is never stored: it marks its
// cell through the sign of the value, until packed.
#pragma once
#include "base/hd.h"
#include "base/launch.h"

namespace dfn {

constexpr int kSumChunks = 4096;      // partial sums of the mean: the same on every device, and so is the mean
constexpr int kSumLanes = 256;        // a power of two: lanes that add the partial sums, then each other in pairs
constexpr int kFloorFraction = 4096;  // if fewer than one cell in so many is occupied, all are: never empty for ever

template <class T>
struct Occupancy {
    T* grid;               // in, out (cells)
    uint8_t* bitfield;     // out (cells / 8)
    const int64_t* index;  // in (listed): cells; those outside the grid are ignored
    const T* sigma;        // in (listed): new value of each
    double* sums;          // scratch (kSumChunks + 1); the last one is the threshold
    int64_t* occupied;     // scratch (1), zero at first: occupied cells
    int64_t cells;
    int64_t listed;
    T decay;
    T threshold;

    DFN_FIELDS(grid, bitfield, index, sigma, sums, occupied, cells, listed, decay, threshold)
};

template <class T>
DFN_HD bool finite(T v) {
    return v - v == T(0);
}

// Also heals a grid that came with a NaN, an infinity or a negative value.
template <class T>
DFN_HD void decay_cell(const Occupancy<T>& p, int64_t i) {
    const T v = p.grid[i] * p.decay;
    p.grid[i] = v > T(0) && finite(v) ? v : T(0);
}

// Max is free of order, so a cell may be listed many times. Values are not negative: their bits order like the numbers.
template <class T>
DFN_HD void raise_cell(const Occupancy<T>& p, int64_t i) {
    const int64_t cell = p.index[i];
    const T v = p.sigma[i];
    if (cell < 0 || cell >= p.cells || !(v > T(0)) || !finite(v)) return;
#ifdef __CUDA_ARCH__
    atomicMax(reinterpret_cast<int*>(p.grid + cell), __float_as_int(float(v)));
#else
    if (v > p.grid[cell]) p.grid[cell] = v;
#endif
}

// Runs after every raise_cell. Several threads may mark one cell.
template <class T>
DFN_HD void mark_cell(const Occupancy<T>& p, int64_t i) {
    const int64_t cell = p.index[i];
    if (cell < 0 || cell >= p.cells || finite(p.sigma[i])) return;
#ifdef __CUDA_ARCH__
    atomicOr(reinterpret_cast<unsigned*>(p.grid + cell), 0x80000000u);
#else
    p.grid[cell] = -std::fabs(p.grid[cell]);
#endif
}

template <class T>
DFN_HD void partial_sum(const Occupancy<T>& p, int64_t chunk) {
    const int64_t length = (p.cells + kSumChunks - 1) / kSumChunks, begin = chunk * length;
    const int64_t end = begin + length < p.cells ? begin + length : p.cells;
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += double(std::fabs(p.grid[i]));
    p.sums[chunk] = sum;
}

// The mean in one order of additions on every device: every kSumLanes-th partial sum to a lane; then fold with `reach`
// kSumLanes / 2, ..., 2, 1, each for all lanes below it, leaves the sum in lane 0.
template <class T>
DFN_HD double lane_sum(const Occupancy<T>& p, int lane) {
    double sum = 0;
    for (int i = lane; i < kSumChunks; i += kSumLanes) sum += p.sums[i];
    return sum;
}

DFN_HD void fold(double* lanes, int lane, int reach) { lanes[lane] += lanes[lane + reach]; }

template <class T>
DFN_HD void set_threshold(const Occupancy<T>& p, double sum) {
    const double mean = sum / double(p.cells);
    p.sums[kSumChunks] = mean < double(p.threshold) ? mean : double(p.threshold);
}

// Writes eight bits and clears the marks; returns how many bits are set.
template <class T>
DFN_HD int pack_byte(const Occupancy<T>& p, int64_t byte) {
    const double threshold = p.sums[kSumChunks];
    unsigned bits = 0;
    int set = 0;
    for (int k = 0; k < 8; ++k) {
        const T v = p.grid[8 * byte + k];
        const bool marked = std::signbit(v), occupied = marked || double(v) > threshold;
        if (marked) p.grid[8 * byte + k] = -v;
        bits |= unsigned(occupied) << k;
        set += occupied;
    }
    p.bitfield[byte] = uint8_t(bits);
    return set;
}

template <class T>
DFN_HD bool too_empty(const Occupancy<T>& p) {
    return *p.occupied * kFloorFraction < p.cells;
}

template <class T>
DFN_HD void fill_byte(const Occupancy<T>& p, int64_t byte) {
    p.bitfield[byte] = 0xFF;
}

// A random point of a cell, or its centre.
template <class T>
struct CellPoints {
    const int64_t* index;  // in (n)
    T* x;                  // out (n, 3), world units
    int64_t n;
    int resolution;
    T bound;
    uint64_t seed, stream;  // the index of a random number is the row
    bool jittered;

    DFN_FIELDS(index, x, n, resolution, bound, seed, stream, jittered)
};

template <class T>
DFN_HD void cell_point(const CellPoints<T>& p, int64_t i) {
    const int64_t r = p.resolution, c = p.index[i];
    const Vec3<T> u = p.jittered ? uniform3<T>(p.seed, p.stream, uint64_t(i)) : Vec3<T>{T(0.5), T(0.5), T(0.5)};
    const Vec3<T> corner{T(c / (r * r)), T(c / r % r), T(c % r)};
    const T size = (p.bound + p.bound) / T(r);
    store3(p.x, i, size * (corner + u) - Vec3<T>{p.bound, p.bound, p.bound});
}

DFN_DECLARE(occupancy_update, Occupancy)
DFN_DECLARE(cell_points, CellPoints)

}  // namespace dfn
