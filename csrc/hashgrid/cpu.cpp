// Hash grid on the CPU. float32 runs the vector loops of simd_kernels.h; float64 is there to check derivatives: it runs
// the bodies that CUDA runs, sample by sample. Table gradients are summed by level, each level by one thread in the
// order of the samples: no atomics, and the same bits for any number of threads.
#include <algorithm>

#include "hashgrid/encode_spans.h"

namespace dfn::cpu {
namespace {

void encode_rows(const HashGrid<float>& p, int64_t live, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    encode_all(
        {p.grid, p.table, nullptr}, p.grid.levels * p.grid.features, kValue, live, e,
        [&](int64_t i, int64_t end, const Blocks& b) { simd.place(p.x, 0, i, end, b); },
        [&](int64_t i, int64_t end, const Blocks& b) { simd.encode_store(p, i, end, b); });
}

void encode_rows(const HashGrid<double>& p, int64_t live, const Exec& e) {
    parallel_for(live, e.threads, [&](int64_t begin, int64_t end) {
        for (int level = 0; level < p.grid.levels; ++level)
            for (int64_t i = begin; i < end; ++i) hashgrid_forward_body(p, i, level, true);
    });
}

void grad_table_rows(const HashGrid<float>& p, int64_t live, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    Blocks b{nullptr, p.grid.levels * p.grid.features, kValue};
    const int64_t span = span_of(live, b);
    const Workspace memory(span / kLanes * b.size());
    b.memory = memory.data();
    for (int64_t first = 0; first < live; first += span) {
        const int64_t rows = std::min(span, live - first);
        parallel_for(
            rows, e.threads,
            [&](int64_t i, int64_t end) { simd.encode_load(p, first + i, first + end, blocks_from(b, i)); }, kChunk);
        scatter_span({p.grid, nullptr, nullptr}, rows, b, p.grad_table, e);
    }
}

void grad_table_rows(const HashGrid<double>& p, int64_t live, const Exec& e) {
    parallel_for(
        p.grid.levels, e.threads,
        [&](int64_t level, int64_t) {
            for (int64_t i = 0; i < live; ++i) hashgrid_grad_table_body(p, i, int(level), PlainAdd());
        },
        1);
}

void grad_x_rows(const HashGrid<float>& p, int64_t live, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    encode_all(
        {p.grid, p.table, nullptr}, p.grid.levels * p.grid.features, kJacobian, live, e,
        [&](int64_t i, int64_t end, const Blocks& b) { simd.place(p.x, 0, i, end, b); },
        [&](int64_t i, int64_t end, const Blocks& b) { simd.encode_grad_x(p, i, end, b); });
}

void grad_x_rows(const HashGrid<double>& p, int64_t live, const Exec& e) {
    parallel_for(live, e.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) hashgrid_grad_x_body(p, i, true);
    });
}

}  // namespace

template <class T>
void hashgrid_forward(const HashGrid<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count), width = int64_t(p.grid.levels) * p.grid.features;
    encode_rows(p, live, e);
    std::fill(p.y + live * width, p.y + p.n * width, T(0));
}

template <class T>
void hashgrid_grad_table(const HashGrid<T>& p, const Exec& e) {
    grad_table_rows(p, live_rows(p.n, p.count), e);
}

template <class T>
void hashgrid_grad_x(const HashGrid<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count);
    grad_x_rows(p, live, e);
    std::fill(p.grad_x + 3 * live, p.grad_x + 3 * p.n, T(0));
}

// The second derivative of the encoding alone is off the hot path (the field op does without): plain bodies.
template <class T>
void hashgrid_grad_x_backward(const HashGrid<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count);
    parallel_for(p.n, e.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) hashgrid_hessian_body(p, i, i < live);
    });
    parallel_for(
        p.grid.levels, e.threads,
        [&](int64_t level, int64_t) {
            for (int64_t i = 0; i < p.n; ++i) hashgrid_tangent_body(p, i, int(level), i < live, PlainAdd());
        },
        1);
}

DFN_INSTANTIATE_CPU(hashgrid_forward, HashGrid);
DFN_INSTANTIATE_CPU(hashgrid_grad_table, HashGrid);
DFN_INSTANTIATE_CPU(hashgrid_grad_x, HashGrid);
DFN_INSTANTIATE_CPU(hashgrid_grad_x_backward, HashGrid);

}  // namespace dfn::cpu
