// Field on CUDA: one thread per sample around the bodies of field.h. The number of valid rows is read from device
// memory. Table gradients are fp32 atomics; weight gradients are first summed in
// shared memory. Fields of the usual shapes take the kernels of field_cuda.cuh.
#include "field/field_cuda.cuh"
#include "field/field_mma_backward.cuh"

namespace dfn::cuda {

namespace {

template <class T>
__global__ void field_forward_kernel(const Field<T> p) {
    T e[kMaxInputs], q[kMaxInputs];
    const int64_t live = live_rows(p.n, p.count);
    DFN_GRID_STRIDE(i, p.n) {
        if (i < live) {
            field_forward_body(p, i, e, q, 1);
            continue;
        }
        p.h[i] = T(0);
        if (p.grad_h) {
            store3(p.rgb_raw, i, Vec3<T>{});
            store3(p.grad_h, i, Vec3<T>{});
        }
    }
}

template <class T>
__global__ void field_table_kernel(const Field<T> p) {
    T e[kMaxInputs], de[kMaxInputs], q[kMaxInputs], d[kOutputs];
    DFN_GRID_STRIDE(i, live_rows(p.n, p.count)) {
        load_output_gradient(p, i, d, 1);
        encode_sample(p.model, to_unit_cube(load3(p.x, i), p.model.bound), Vec3<T>{}, e, static_cast<T*>(nullptr), 1);
        field_table_backward(p, i, e, d, de, q, 1, AtomicAdd());
    }
}

// A block takes a tile of blockDim.x samples at a time: each thread encodes one sample, then sums whole hidden units
// over the tile. Shared memory: the block's sum of the weights' gradient, then e, t and d, element k of sample s at
// [k * blockDim.x + s].
template <class T>
__global__ void field_weights_kernel(const Field<T> p) {
    const FieldModel<T>& m = p.model;
    const int inputs = m.grid.levels * m.grid.features, tile = blockDim.x, thread = threadIdx.x;
    const int weights = weight_count(inputs, m.hidden);
    T *sum = dynamic_shared<T>(), *e = sum + weights, *t = e + inputs * tile, *d = t + inputs * tile;
    const int64_t live = live_rows(p.n, p.count);
    if (int64_t(blockIdx.x) * tile >= live) return;  // nothing to add
    for (int k = thread; k < weights; k += tile) sum[k] = T(0);
    for (int64_t first = int64_t(blockIdx.x) * tile; first < live; first += int64_t(gridDim.x) * tile) {
        const int64_t i = first + thread;
        const int samples = int(live - first < tile ? live - first : tile);
        if (i < live) {
            load_output_gradient(p, i, d + thread, tile);
            encode_sample(m, to_unit_cube(load3(p.x, i), m.bound), load3(p.d_grad_h, i), e + thread, t + thread, tile);
        }
        __syncthreads();
        for (int unit = thread; unit < m.hidden; unit += tile)
            for (int s = 0; s < samples; ++s) field_unit_backward(m, unit, e + s, t + s, d + s, tile, sum, PlainAdd());
        if (i < live) field_bias_backward(m, d + thread, tile, sum, AtomicAdd());
        __syncthreads();
    }
    for (int k = thread; k < weights; k += tile) AtomicAdd::add(p.grad_weights + k, sum[k]);
}

// Whether the kernels of field_cuda.cuh fit.
bool usual_shape(const FieldModel<float>& m) {
    return (m.grid.levels == 16 || m.grid.levels == 8) && m.grid.features == 2 && holds_pairs(m.table) &&
           uintptr_t(m.shadow) % 4 == 0;
}

#define DFN_BY_LEVELS(launch, Value) (p.model.grid.levels == 16 ? launch<32, Value>(p, e) : launch<16, Value>(p, e))

void refuse_shadow(const FieldModel<float>& m) {
    if (m.shadow)
        throw std::invalid_argument(
            "field: a shadow needs 16 or 8 levels of 2 features, memory that begins at a "
            "multiple of 4 bytes, and hidden layers that fit into the device's shared memory");
}

// Blocks that stay for the whole kernel, each with a copy of the weights: as many as the largest devices hold at once.
unsigned resident_blocks(int64_t n, int block) { return std::min(blocks_for(n, block), 1024u); }

// Whether a block on the device can have this much shared memory.
bool fits_shared(size_t bytes, const Exec& e) {
    int most = 0;
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, e.device), "field");
    return bytes <= size_t(most);
}

// Whether a kernel on tensor cores is asked for, and the device has them (sm_80) and this much shared memory.
bool on_tensor_cores(const Field<float>& p, size_t bytes, const Exec& e) {
    if (!p.model.tensor_cores) return false;
    int major = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, e.device), "field");
    return major >= 8 && fits_shared(bytes, e);
}

void allow_shared(const char* op, void (*kernel)(Field<float>), size_t bytes) {
    if (bytes > 48 * 1024)  // what a block gets without asking
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), op);
}

template <int kInputs, class Value>
void launch_forward_mma(const Field<float>& p, size_t bytes, const Exec& e) {
    const DeviceGuard guard(e.device);
    void (*const kernel)(Field<float>) =
        p.grad_h ? field_forward_mma_kernel<kInputs, Value, true> : field_forward_mma_kernel<kInputs, Value, false>;
    allow_shared("field_forward", kernel, bytes);
    launch_shared("field_forward", e, kernel, resident_blocks(p.n, kMmaBlock), kMmaBlock, bytes, p);
}

template <int kInputs, class Value>
void launch_forward_tile(const Field<float>& p, const Exec& e) {
    const size_t of_mma = MmaNetwork<kInputs>::bytes(p.model.hidden);
    if (on_tensor_cores(p, of_mma, e)) return launch_forward_mma<kInputs, Value>(p, of_mma, e);
    const auto kernel =
        p.grad_h ? field_forward_tile_kernel<kInputs, Value, true> : field_forward_tile_kernel<kInputs, Value, false>;
    const size_t bytes = sizeof(float) * weight_count(kInputs, p.model.hidden);
    launch_shared("field_forward", e, kernel, resident_blocks(p.n, kForwardBlock), kForwardBlock, bytes, p);
}

template <int kInputs, class Value>
void launch_backward_tile(const Field<float>& p, const Exec& e) {
    const DeviceGuard guard(e.device);
    const size_t of_mma = MmaBackward<kInputs>::bytes(p.model.hidden);  // 27 KB and 69 KB for the presets' shapes
    const bool mma = on_tensor_cores(p, of_mma, e);
    const size_t bytes = mma ? of_mma : Tile<kInputs>::bytes(p.model.hidden);
    void (*const kernel)(Field<float>) =
        mma ? field_backward_mma_kernel<kInputs, Value> : field_backward_tile_kernel<kInputs, Value>;
    const int block = mma ? kMmaBackwardBlock : kTile;
    allow_shared("field_backward", kernel, bytes);
    launch_shared("field_backward", e, kernel, resident_blocks(p.n, block), block, bytes, p);
}

void launch_weights(const Field<float>& p, const Exec& e) {
    constexpr size_t kShared = 48 * 1024;
    constexpr int64_t kBlocks = 512;  // enough to fill a device; each adds its sum once
    const int inputs = p.model.grid.levels * p.model.grid.features;
    const auto bytes = [&](int tile) {
        return sizeof(float) * (weight_count(inputs, p.model.hidden) + size_t(tile) * (2 * inputs + kOutputs));
    };
    int tile = 128;
    while (tile > 32 && bytes(tile) > kShared) tile /= 2;
    const DeviceGuard guard(e.device);
    void (*const kernel)(Field<float>) = field_weights_kernel<float>;
    allow_shared("field_backward", kernel, bytes(tile));  // at most 53 KB, which every supported device has
    const unsigned blocks = unsigned(std::min<int64_t>(blocks_for(p.n, tile), kBlocks));
    launch_shared("field_backward", e, kernel, blocks, tile, bytes(tile), p);
}

}  // namespace

template <class T>
void field_forward(const Field<T>& p, const Exec& e) {
    if (usual_shape(p.model)) {
        if (p.model.shadow) return DFN_BY_LEVELS(launch_forward_tile, __half);
        return DFN_BY_LEVELS(launch_forward_tile, float);
    }
    refuse_shadow(p.model);
    launch("field_forward", e, field_forward_kernel<T>, blocks_for(p.n), kBlock, p);
}

template <class T>
void field_backward(const Field<T>& p, const Exec& e) {
    const int hidden = p.model.hidden;  // at most 65 KB, where sm_75 has 64
    const size_t tile = p.model.grid.levels == 16 ? Tile<32>::bytes(hidden) : Tile<16>::bytes(hidden);
    if (usual_shape(p.model) && holds_pairs(p.grad_table) && fits_shared(tile, e)) {
        if (p.model.shadow) return DFN_BY_LEVELS(launch_backward_tile, __half);
        return DFN_BY_LEVELS(launch_backward_tile, float);
    }
    refuse_shadow(p.model);
    launch_weights(p, e);
    launch("field_backward", e, field_table_kernel<T>, blocks_for(p.n), kBlock, p);
}

DFN_INSTANTIATE_CUDA(field_forward, Field);
DFN_INSTANTIATE_CUDA(field_backward, Field);

}  // namespace dfn::cuda
