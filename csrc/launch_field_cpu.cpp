// Hash grid and field on the CPU. float32 runs the vector loops of simd_kernels.h; float64 is there to check
// derivatives: it runs the bodies that CUDA runs, sample by sample. Table gradients are summed by level, each level by
// one thread in the order of the samples, and weight gradients by fixed chunks, then in the order of the chunks: no
// atomics, and the same bits for any number of threads.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "ops.h"
#include "parallel.h"
#include "simd_kernels.h"
#include "workspace.h"

namespace dfn::cpu {
namespace {

constexpr int64_t kChunk = 16 * kLanes;            // samples of one task
constexpr int64_t kSpanFloats = int64_t(20) << 20;  // of the blocks that are kept between passes: 80 MB
constexpr int64_t kCachedRows = int64_t(1) << 20;  // a table of fewer floats stays in the cache

// Too much for a thread's stack, and slow to allocate for every chunk.
thread_local Scratch scratch;
struct alignas(64) OneBlock {
    float memory[(6 + kJacobian * kMaxInputs) * kLanes];
};
thread_local OneBlock one_block;

bool stays_cached(const GridLayout& g) {
    return (g.offset[g.levels - 1] + g.rows[g.levels - 1]) * g.features <= kCachedRows;
}

Blocks blocks_from(const Blocks& b, int64_t row) { return {b.memory + row / kLanes * b.size(), b.inputs, b.planes}; }

// Rows that go through all passes together: equal shares of `rows` whose blocks fit into the memory allowed.
int64_t span_of(int64_t rows, const Blocks& b) {
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
void read_level(const GridLayout& g, int level, const float* entries, int64_t rows, int part, int parts) {
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
        parallel_for(rows, e.threads, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i += kLanes) {
                const int64_t last = std::min(i + kLanes, end);
                const Blocks here = keep ? blocks_from(b, i) : Blocks{one_block.memory, b.inputs, b.planes};
                place(first + i, first + last, here);
                simd.encode(l.grid, l.table, l.weight, 0, levels, last - i, here);
                finish(first + i, first + last, here);
            }
        }, kChunk);
        return;
    }
    chunks([&](int64_t i, int64_t end, const Blocks& here) { place(first + i, first + end, here); });
    const int64_t tasks = kReaders + (rows + kChunk - 1) / kChunk;
    parallel_for(levels * tasks, e.threads, [&](int64_t task, int64_t) {
        const int level = int(task / tasks), part = int(task % tasks);
        if (l.weight && l.weight[level] == 0) return;
        if (part < kReaders) return read_level(l.grid, level, l.table, rows, part, kReaders);
        const int64_t i = (part - kReaders) * kChunk;
        simd.encode(l.grid, l.table, l.weight, level, level + 1, std::min(kChunk, rows - i), blocks_from(b, i));
    }, 1);
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
void scatter_span(const Lookup& l, int64_t rows, const Blocks& b, float* grad_table, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    parallel_for(l.grid.levels, e.threads, [&](int64_t level, int64_t) {
        const float w = l.weight ? l.weight[level] : 1.0f;
        if (w == 0.0f) return;
        read_level(l.grid, int(level), grad_table, rows, 0, 1);
        simd.scatter(l.grid, int(level), w, rows, b, grad_table);
    }, 1);
}

void encode_rows(const HashGrid<float>& p, int64_t live, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    encode_all({p.grid, p.table, nullptr}, p.grid.levels * p.grid.features, kValue, live, e,
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
        parallel_for(rows, e.threads, [&](int64_t i, int64_t end) {
            simd.encode_load(p, first + i, first + end, blocks_from(b, i));
        }, kChunk);
        scatter_span({p.grid, nullptr, nullptr}, rows, b, p.grad_table, e);
    }
}

void grad_table_rows(const HashGrid<double>& p, int64_t live, const Exec& e) {
    parallel_for(p.grid.levels, e.threads, [&](int64_t level, int64_t) {
        for (int64_t i = 0; i < live; ++i) hashgrid_grad_table_body(p, i, int(level), PlainAdd());
    }, 1);
}

void grad_x_rows(const HashGrid<float>& p, int64_t live, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    encode_all({p.grid, p.table, nullptr}, p.grid.levels * p.grid.features, kJacobian, live, e,
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
    parallel_for(p.grid.levels, e.threads, [&](int64_t level, int64_t) {
        for (int64_t i = 0; i < p.n; ++i) hashgrid_tangent_body(p, i, int(level), i < live, PlainAdd());
    }, 1);
}

namespace {

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Memory of a PackedNetwork.
struct Packed : PackedNetwork {
    explicit Packed(const FieldModel<float>& m) {
        const int K = m.grid.levels * m.grid.features;
        inputs = round_up(K, kTile), hidden = round_up(m.hidden, 4);
        memory_.resize(hidden * (2 * inputs + 1 + kOutputs) + kOutputs);
        float *const w1 = memory_.data(), *const density = w1 + hidden * inputs;
        float *const bias = density + hidden * inputs, *const w2 = bias + hidden, *const bias2 = w2 + kOutputs * hidden;
        for (int j = 0; j < m.hidden; ++j) {
            bias[j] = m.b1[j];
            for (int c = 0; c < kOutputs; ++c) w2[c * hidden + j] = m.W2[c * m.hidden + j];
            for (int k = 0; k < K; ++k) {
                w1[j * inputs + k] = m.W1[j * K + k];
                density[j * inputs + k] = m.W2[j] * m.W1[j * K + k];
            }
        }
        std::copy_n(m.b2, kOutputs, bias2);
        W1 = w1, W1_density = density, b1 = bias, W2 = w2, b2 = bias2;
    }

private:
    std::vector<float> memory_;
};

// Memory of a NetworkGradient, for one chunk.
class ChunkGradient {
public:
    explicit ChunkGradient(const PackedNetwork& w)
        : memory_(w.hidden * (2 * w.inputs + 1 + kOutputs) + kOutputs), w_(&w) {}

    NetworkGradient view() {
        float *const fired = memory_.data() + w_->hidden * w_->inputs, *const units = fired + w_->hidden * w_->inputs;
        return {memory_.data(), fired, units, units + (kOutputs + 1) * w_->hidden};
    }

    // out += this, in the layout of Field::grad_weights.
    void add_to(const FieldModel<float>& m, float* out) {
        const int K = m.grid.levels * m.grid.features, H = m.hidden;
        const NetworkGradient g = view();
        for (int j = 0; j < H; ++j) {
            const float *const dz = g.dz + j * w_->inputs, *const fired = g.fired + j * w_->inputs;
            float density = 0;
            for (int k = 0; k < K; ++k) {
                out[j * K + k] += dz[k] + m.W2[j] * fired[k];
                density += m.W1[j * K + k] * fired[k];
            }
            out[H * K + j] += g.units[kOutputs * w_->hidden + j];
            for (int c = 0; c < kOutputs; ++c)
                out[H * K + H + c * H + j] += g.units[c * w_->hidden + j] + (c == 0 ? density : 0.0f);
        }
        for (int c = 0; c < kOutputs; ++c) out[H * K + 5 * H + c] += g.b2[c];
    }

private:
    std::vector<float> memory_;
    const PackedNetwork* w_;
};

void forward_rows(const Field<float>& p, int64_t live, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    const Packed w(p.model);
    encode_all({p.model.grid, p.model.table, p.model.level_weight}, w.inputs, p.grad_h ? kJacobian : kValue, live, e,
        [&](int64_t i, int64_t end, const Blocks& b) { simd.field_place(p, i, end, b); },
        [&](int64_t i, int64_t end, const Blocks& b) { simd.field_forward(p, w, i, end, b, scratch); });
}

void forward_rows(const Field<double>& p, int64_t live, const Exec& e) {
    parallel_for(live, e.threads, [&](int64_t begin, int64_t end) {
        double inputs[kMaxInputs], q[kMaxInputs];
        for (int64_t i = begin; i < end; ++i) field_forward_body(p, i, inputs, q, 1);
    });
}

// Whether a row of the outputs has a gradient. Behind a ray's last visible sample none has: up to half of the rows of a
// solid object. NaN is one.
bool has_gradient(const Field<float>& p, int64_t i) {
    if (p.d_h[i] != 0) return true;
    const Vec3<float> c = load3(p.d_rgb_raw, i), g = load3(p.d_grad_h, i);
    return c.x != 0 || c.y != 0 || c.z != 0 || g.x != 0 || g.y != 0 || g.z != 0;
}

constexpr int64_t kBackwardFloats = 10;  // of a row: x, d_h, d_rgb_raw, d_grad_h

// Those rows [first, first + rows) of the inputs of backward that have a gradient, in their order, one after the other:
// in `memory`, kBackwardFloats for each row, or where they are if that is all of them. The others would add zeros.
Field<float> rows_with_gradient(const Field<float>& p, int64_t first, int64_t rows, float* memory, const Exec& e) {
    std::vector<int64_t> place((rows + kChunk - 1) / kChunk + 1);
    parallel_for(rows, e.threads, [&](int64_t i, int64_t end) {
        int64_t found = 0;
        for (int64_t k = i; k < end; ++k) found += has_gradient(p, first + k);
        place[i / kChunk + 1] = found;
    }, kChunk);
    std::partial_sum(place.begin(), place.end(), place.begin());
    Field<float> few = p;
    few.n = place.back();
    if (few.n == rows) {
        few.x += 3 * first, few.d_h += first, few.d_rgb_raw += 3 * first, few.d_grad_h += 3 * first;
        return few;
    }
    float *const x = memory, *const d_rgb_raw = x + 3 * rows, *const d_grad_h = x + 6 * rows, *const d_h = x + 9 * rows;
    few.x = x, few.d_h = d_h, few.d_rgb_raw = d_rgb_raw, few.d_grad_h = d_grad_h;
    parallel_for(rows, e.threads, [&](int64_t i, int64_t end) {
        int64_t to = place[i / kChunk];
        for (int64_t from = first + i; from < first + end; ++from) {
            if (!has_gradient(p, from)) continue;
            store3(x, to, load3(p.x, from)), store3(d_rgb_raw, to, load3(p.d_rgb_raw, from));
            store3(d_grad_h, to, load3(p.d_grad_h, from));
            d_h[to++] = p.d_h[from];
        }
    }, kChunk);
    return few;
}

void backward_rows(const Field<float>& all, int64_t live, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    const Packed w(all.model);
    const Lookup lookup{all.model.grid, all.model.table, all.model.level_weight};
    Blocks b{nullptr, w.inputs, kTangent};
    const int64_t span = span_of(live, b), floats = span / kLanes * b.size();
    const Workspace memory(floats + kBackwardFloats * span);
    b.memory = memory.data();
    for (int64_t first = 0; first < live; first += span) {
        const Field<float> p = rows_with_gradient(all, first, std::min(span, live - first), b.memory + floats, e);
        std::vector<ChunkGradient> partial((p.n + kChunk - 1) / kChunk, ChunkGradient(w));
        encode_span(lookup, 0, p.n, b, true, e,
            [&](int64_t i, int64_t end, const Blocks& here) { simd.field_place(p, i, end, here); },
            [&](int64_t i, int64_t end, const Blocks& here) {
                simd.field_backward(p, w, i, end, here, scratch, partial[i / kChunk].view());
            });
        for (ChunkGradient& part : partial) part.add_to(p.model, p.grad_weights);
        scatter_span(lookup, p.n, b, p.grad_table, e);
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

void trim() { Workspace::trim(); }

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
