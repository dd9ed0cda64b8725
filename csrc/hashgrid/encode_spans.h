// The hash grid's encoding and the scatter of its gradient on the CPU, span by span of rows, for the launchers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/launch.h"
#include "base/parallel.h"
#include "base/workspace.h"
#include "simd_kernels.h"

namespace dfn::cpu {

constexpr int64_t kChunk = 16 * kLanes;             // samples of one task
constexpr int64_t kSpanFloats = int64_t(20) << 20;  // of the blocks that are kept between passes: 80 MB
constexpr int64_t kCachedRows = int64_t(1) << 20;   // a table of fewer floats stays in the cache

// Too much for a thread's stack, and slow to allocate for every chunk.
struct alignas(64) OneBlock {
    float memory[(6 + kJacobian * kMaxInputs) * kLanes];
};
inline thread_local OneBlock one_block;

inline bool stays_cached(const GridLayout& g) {
    return (g.offset[g.levels - 1] + g.rows[g.levels - 1]) * g.features <= kCachedRows;
}

inline Blocks blocks_from(const Blocks& b, int64_t row) {
    return {b.memory + row / kLanes * b.size(), b.inputs, b.planes};
}

// Rows that go through all passes together: equal shares of `rows` whose blocks fit into the memory allowed.
inline int64_t span_of(int64_t rows, const Blocks& b) {
    const int64_t spans = rows * (b.size() / kLanes) / kSpanFloats + 1;
    return ((rows + spans - 1) / spans + kChunk - 1) / kChunk * kChunk;
}

// What is looked up: a table with its layout and the levels' weights, or null for 1.
struct Lookup {
    const GridLayout& grid;
    const float *table, *weight;
};

constexpr int kReaders = 4;  // tasks that read a level

// Reads the part-th of `parts` shares of a level's entries, one number of every cache line, if `rows` lookups will need
// most of these lines. In order they come from memory faster than where points happen to fall: at 131k points in 16
// levels of 2^19 rows, the encoding takes a quarter less time. Prefetch instructions and huge pages gained nothing.
inline void read_level(const GridLayout& g, int level, const float* entries, int64_t rows, int part, int parts) {
    if (stays_cached(g) || 16 * rows < g.rows[level]) return;
    const int64_t floats = int64_t(g.rows[level]) * g.features, line = 64 / sizeof(float);
    const volatile float* const first = entries + g.offset[level] * g.features;
    for (int64_t i = part * floats / parts; i < (part + 1) * floats / parts; i += line) (void)first[i];
}

// Encodes rows [first, first + rows) into b: place(begin, end, blocks), the levels, finish(begin, end, blocks). A table
// that stays in the cache is looked up block by block; a larger one level by level, all threads in about the same one,
// so that each level comes from memory once.
template <class Place, class Finish>
void encode_span(const Lookup& l, int64_t first, int64_t rows, const Blocks& b, bool keep, const Exec& e, Place place,
    Finish finish) {
    const SimdKernels& simd = simd_kernels();
    const int levels = l.grid.levels;
    const auto chunks = [&](auto fn) {
        parallel_for(rows, e.threads, [&](int64_t i, int64_t end) { fn(i, end, blocks_from(b, i)); }, kChunk);
    };
    if (stays_cached(l.grid)) {
        parallel_for(
            rows, e.threads,
            [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; i += kLanes) {
                    const int64_t last = std::min(i + kLanes, end);
                    const Blocks here = keep ? blocks_from(b, i) : Blocks{one_block.memory, b.inputs, b.planes};
                    place(first + i, first + last, here);
                    simd.encode(l.grid, l.table, l.weight, 0, levels, last - i, here);
                    finish(first + i, first + last, here);
                }
            },
            kChunk);
        return;
    }
    chunks([&](int64_t i, int64_t end, const Blocks& here) { place(first + i, first + end, here); });
    const int64_t tasks = kReaders + (rows + kChunk - 1) / kChunk;
    parallel_for(
        levels * tasks, e.threads,
        [&](int64_t task, int64_t) {
            const int level = int(task / tasks), part = int(task % tasks);
            if (l.weight && l.weight[level] == 0) return;
            if (part < kReaders) return read_level(l.grid, level, l.table, rows, part, kReaders);
            const int64_t i = (part - kReaders) * kChunk;
            simd.encode(l.grid, l.table, l.weight, level, level + 1, std::min(kChunk, rows - i), blocks_from(b, i));
        },
        1);
    chunks([&](int64_t i, int64_t end, const Blocks& here) { finish(first + i, first + end, here); });
}

// encode_span for all rows [0, live), which are not needed afterwards.
template <class Place, class Finish>
void encode_all(const Lookup& l, int inputs, Planes planes, int64_t live, const Exec& e, Place place, Finish finish) {
    Blocks b{nullptr, inputs, planes};
    const int64_t span = span_of(live, b);
    const Workspace memory(stays_cached(l.grid) ? 0 : span / kLanes * b.size());
    b.memory = memory.data();
    for (int64_t first = 0; first < live; first += span)
        encode_span(l, first, std::min(span, live - first), b, false, e, place, finish);
}

// Adds what a span of blocks gives to the gradient of the table, each level from one thread.
inline void scatter_span(const Lookup& l, int64_t rows, const Blocks& b, float* grad_table, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    parallel_for(
        l.grid.levels, e.threads,
        [&](int64_t level, int64_t) {
            const float w = l.weight ? l.weight[level] : 1.0f;
            if (w == 0.0f) return;
            read_level(l.grid, int(level), grad_table, rows, 0, 1);
            simd.scatter(l.grid, int(level), w, rows, b, grad_table);
        },
        1);
}

}  // namespace dfn::cpu
