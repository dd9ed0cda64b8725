// Hash grid and field on the CPU. float64 is there to check derivatives: it runs the bodies that CUDA runs, sample by
// sample. Table gradients are summed by level, each level by one thread in the order of the samples, and weight
// gradients by fixed chunks, then in the order of the chunks: no atomics, and the same bits for any number of threads.
#include <algorithm>
#include <memory>
#include <vector>

#include "field_block.h"
#include "ops.h"
#include "parallel.h"

namespace dfn::cpu {
namespace {

// Calls fn(level) for every level, each from one thread.
template <class Fn>
void for_each_level(const GridLayout& grid, const Exec& e, Fn fn) {
    parallel_for(grid.levels, e.threads, [&](int64_t level, int64_t) { fn(int(level)); }, 1);
}

}  // namespace

template <class T>
void hashgrid_forward(const HashGrid<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count);
    parallel_for(p.n, e.threads, [&](int64_t begin, int64_t end) {
        for (int level = 0; level < p.grid.levels; ++level)
            for (int64_t i = begin; i < end; ++i) hashgrid_forward_body(p, i, level, i < live);
    });
}

template <class T>
void hashgrid_grad_table(const HashGrid<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count);
    for_each_level(p.grid, e, [&](int level) {
        for (int64_t i = 0; i < live; ++i) hashgrid_grad_table_body(p, i, level, PlainAdd());
    });
}

template <class T>
void hashgrid_grad_x(const HashGrid<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count);
    parallel_for(p.n, e.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) hashgrid_grad_x_body(p, i, i < live);
    });
}

template <class T>
void hashgrid_grad_x_backward(const HashGrid<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count);
    parallel_for(p.n, e.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) hashgrid_hessian_body(p, i, i < live);
    });
    for_each_level(p.grid, e, [&](int level) {
        for (int64_t i = 0; i < p.n; ++i) hashgrid_tangent_body(p, i, level, i < live, PlainAdd());
    });
}

namespace {

constexpr int64_t kChunk = 16 * kLanes;  // samples of one task
constexpr int64_t kSpan = 32 * kChunk;   // samples whose de and q are kept between the passes of the backward

// A quarter of a megabyte: too much for a thread's stack, and slow to allocate for every chunk.
thread_local FieldBlock<float> scratch;

DFN_SIMD void forward_chunk(
    const Field<float>& p, const PackedWeights<float>& w, int64_t begin, int64_t end, FieldBlock<float>& block) {
    prepare_block(p.model, w, block);
    for (int64_t i = begin; i < end; i += kLanes)
        field_forward_block(p, w, i, int(std::min<int64_t>(kLanes, end - i)), block);
}

void forward_rows(const Field<float>& p, int64_t live, const Exec& e) {
    const PackedWeights<float> weights(p.model);
    const auto chunk = [&](int64_t begin, int64_t end) { forward_chunk(p, weights, begin, end, scratch); };
    parallel_for(live, e.threads, chunk, kChunk);
}

void forward_rows(const Field<double>& p, int64_t live, const Exec& e) {
    parallel_for(live, e.threads, [&](int64_t begin, int64_t end) {
        double inputs[kMaxInputs], q[kMaxInputs];
        for (int64_t i = begin; i < end; ++i) field_forward_body(p, i, inputs, q, 1);
    });
}

// What the first pass of the backward leaves for the second, one per block of samples.
struct Pending {
    Points<float> points;
    float de[kMaxInputs][kLanes], q[kMaxInputs][kLanes];
};

DFN_SIMD void backward_chunk(const Field<float>& p, const PackedWeights<float>& w, int64_t begin, int64_t end,
    FieldBlock<float>& block, Pending* pending, WeightGradient<float>& g) {
    const int inputs = p.model.grid.levels * p.model.grid.features;
    prepare_block(p.model, w, block);
    for (int64_t i = begin; i < end; i += kLanes, ++pending) {
        field_backward_block(p, w, i, int(std::min<int64_t>(kLanes, end - i)), block, g);
        pending->points = block.points;
        std::copy_n(block.de[0], inputs * kLanes, pending->de[0]);
        std::copy_n(block.q[0], inputs * kLanes, pending->q[0]);
    }
}

DFN_SIMD void scatter_span(const Field<float>& p, int level, int64_t rows, const Pending* pending) {
    for (int64_t i = 0; i < rows; i += kLanes, ++pending) {
        const int live = int(std::min<int64_t>(kLanes, rows - i));
        if (p.model.grid.features == 2)
            scatter_level<2>(p.model, level, pending->points, pending->de, pending->q, live, p.grad_table);
        else scatter_level<0>(p.model, level, pending->points, pending->de, pending->q, live, p.grad_table);
    }
}

void backward_rows(const Field<float>& p, int64_t live, const Exec& e) {
    const PackedWeights<float> weights(p.model);
    const int64_t blocks = (std::min(live, kSpan) + kLanes - 1) / kLanes;
    const std::unique_ptr<Pending[]> pending(new Pending[blocks]);  // not cleared, unlike make_unique's
    for (int64_t first = 0; first < live; first += kSpan) {
        const int64_t rows = std::min(kSpan, live - first);
        std::vector<WeightGradient<float>> partial((rows + kChunk - 1) / kChunk, WeightGradient<float>(weights));
        const auto chunk = [&](int64_t begin, int64_t end) {
            Pending* const blocks = &pending[begin / kLanes];
            backward_chunk(p, weights, first + begin, first + end, scratch, blocks, partial[begin / kChunk]);
        };
        parallel_for(rows, e.threads, chunk, kChunk);
        for (const auto& part : partial) part.add_to(p.model, weights, p.grad_weights);
        for_each_level(p.model.grid, e, [&](int level) {
            if (p.model.level_weight[level] != 0.0f) scatter_span(p, level, rows, pending.get());
        });
    }
}

void backward_rows(const Field<double>& p, int64_t live, const Exec&) {
    const FieldModel<double>& m = p.model;
    double inputs[kMaxInputs], tangent[kMaxInputs], de[kMaxInputs], q[kMaxInputs], d[kOutputs];
    for (int64_t i = 0; i < live; ++i) {
        load_output_gradient(p, i, d, 1);
        encode_sample(m, to_unit_cube(load3(p.x, i), m.bound), load3(p.d_grad_h, i), inputs, tangent, 1);
        for (int j = 0; j < m.hidden; ++j) field_unit_backward(m, j, inputs, tangent, d, 1, p.grad_weights, PlainAdd());
        field_bias_backward(m, d, 1, p.grad_weights, PlainAdd());
        field_table_backward(p, i, inputs, d, de, q, 1, PlainAdd());
    }
}

}  // namespace

template <class T>
void field_forward(const Field<T>& p, const Exec& e) {
    const int64_t live = live_rows(p.n, p.count);
    forward_rows(p, live, e);
    std::fill(p.h + live, p.h + p.n, T(0));
    if (!p.grad_h) return;
    std::fill(p.rgb_raw + 3 * live, p.rgb_raw + 3 * p.n, T(0));
    std::fill(p.grad_h + 3 * live, p.grad_h + 3 * p.n, T(0));
}

template <class T>
void field_backward(const Field<T>& p, const Exec& e) {
    backward_rows(p, live_rows(p.n, p.count), e);
}

#define DFN_INSTANTIATE(T)                                                   \
    template void hashgrid_forward(const HashGrid<T>&, const Exec&);         \
    template void hashgrid_grad_table(const HashGrid<T>&, const Exec&);      \
    template void hashgrid_grad_x(const HashGrid<T>&, const Exec&);          \
    template void hashgrid_grad_x_backward(const HashGrid<T>&, const Exec&); \
    template void field_forward(const Field<T>&, const Exec&);               \
    template void field_backward(const Field<T>&, const Exec&)
DFN_INSTANTIATE(float);
DFN_INSTANTIATE(double);

}  // namespace dfn::cpu
