// Field on the CPU. float32 runs the vector loops of simd_kernels.h; float64 is there to check derivatives: it runs the
// bodies that CUDA runs, sample by sample. Table gradients are summed by level, each level by one thread in the order
// of the samples, and weight gradients by fixed chunks, then in the order of the chunks: no atomics, and the same bits
// for any number of threads.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "hashgrid/encode_spans.h"

namespace dfn::cpu {
namespace {

thread_local Scratch scratch;  // as one_block: too much for a thread's stack, and slow to allocate for every chunk

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Memory of a PackedNetwork.
struct Packed : PackedNetwork {
    explicit Packed(const FieldModel<float>& m) {
        const int K = m.grid.levels * m.grid.features;
        inputs = round_up(K, kTile);
        hidden = round_up(m.hidden, 4);
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
        W1 = w1;
        W1_density = density;
        b1 = bias;
        W2 = w2;
        b2 = bias2;
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
        float *const W1 = out, *const b1 = W1 + H * K, *const W2 = b1 + H, *const b2 = W2 + kOutputs * H;
        const NetworkGradient g = view();
        for (int j = 0; j < H; ++j) {
            const float *const dz = g.dz + j * w_->inputs, *const fired = g.fired + j * w_->inputs;
            float density = 0;
            for (int k = 0; k < K; ++k) {
                W1[j * K + k] += dz[k] + m.W2[j] * fired[k];
                density += m.W1[j * K + k] * fired[k];
            }
            b1[j] += g.units[kOutputs * w_->hidden + j];
            for (int c = 0; c < kOutputs; ++c) W2[c * H + j] += g.units[c * w_->hidden + j] + (c == 0 ? density : 0.0f);
        }
        for (int c = 0; c < kOutputs; ++c) b2[c] += g.b2[c];
    }

private:
    std::vector<float> memory_;
    const PackedNetwork* w_;
};

void forward_rows(const Field<float>& p, int64_t live, const Exec& e) {
    const SimdKernels& simd = simd_kernels();
    const Packed w(p.model);
    encode_all(
        {p.model.grid, p.model.table, p.model.level_weight}, w.inputs, p.grad_h ? kJacobian : kValue, live, e,
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
    parallel_for(
        rows, e.threads,
        [&](int64_t i, int64_t end) {
            int64_t found = 0;
            for (int64_t k = i; k < end; ++k) found += has_gradient(p, first + k);
            place[i / kChunk + 1] = found;
        },
        kChunk);
    std::partial_sum(place.begin(), place.end(), place.begin());
    Field<float> few = p;
    few.n = place.back();
    if (few.n == rows) {
        few.x += 3 * first;
        few.d_h += first;
        few.d_rgb_raw += 3 * first;
        few.d_grad_h += 3 * first;
        return few;
    }
    float *const x = memory, *const d_rgb_raw = x + 3 * rows, *const d_grad_h = x + 6 * rows, *const d_h = x + 9 * rows;
    few.x = x;
    few.d_h = d_h;
    few.d_rgb_raw = d_rgb_raw;
    few.d_grad_h = d_grad_h;
    parallel_for(
        rows, e.threads,
        [&](int64_t i, int64_t end) {
            int64_t to = place[i / kChunk];
            for (int64_t from = first + i; from < first + end; ++from) {
                if (!has_gradient(p, from)) continue;
                store3(x, to, load3(p.x, from));
                store3(d_rgb_raw, to, load3(p.d_rgb_raw, from));
                store3(d_grad_h, to, load3(p.d_grad_h, from));
                d_h[to++] = p.d_h[from];
            }
        },
        kChunk);
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
        encode_span(
            lookup, 0, p.n, b, true, e,
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

DFN_INSTANTIATE_CPU(field_forward, Field);
DFN_INSTANTIATE_CPU(field_backward, Field);

}  // namespace dfn::cpu
