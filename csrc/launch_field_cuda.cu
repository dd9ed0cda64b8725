// Hash grid and field on CUDA: one thread per sample around the bodies of hashgrid.h and field.h. The number of valid
// rows is read from device memory. Table gradients are fp32 atomics; weight gradients are first summed in
// shared memory.
#include "cuda_util.cuh"

namespace dfn::cuda {

int runtime_version() {
    int version = 0;
    return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}
int driver_version() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}
int device_count() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

namespace {

// One launch row of blocks per level: the level's part of the table stays in cache.
template <class T>
__global__ void hashgrid_forward_kernel(const HashGrid<T> p) {
    const int64_t live = live_rows(p.n, p.count);
    DFN_GRID_STRIDE(i, p.n) hashgrid_forward_body(p, i, blockIdx.y, i < live);
}

template <class T>
__global__ void hashgrid_grad_table_kernel(const HashGrid<T> p) {
    DFN_GRID_STRIDE(i, live_rows(p.n, p.count)) hashgrid_grad_table_body(p, i, blockIdx.y, AtomicAdd());
}

template <class T>
__global__ void hashgrid_grad_x_kernel(const HashGrid<T> p) {
    const int64_t live = live_rows(p.n, p.count);
    DFN_GRID_STRIDE(i, p.n) hashgrid_grad_x_body(p, i, i < live);
}

template <class T>
__global__ void hashgrid_hessian_kernel(const HashGrid<T> p) {
    const int64_t live = live_rows(p.n, p.count);
    DFN_GRID_STRIDE(i, p.n) hashgrid_hessian_body(p, i, i < live);
}

template <class T>
__global__ void hashgrid_tangent_kernel(const HashGrid<T> p) {
    const int64_t live = live_rows(p.n, p.count);
    DFN_GRID_STRIDE(i, p.n) hashgrid_tangent_body(p, i, blockIdx.y, i < live, AtomicAdd());
}

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
        if (p.grad_h) store3(p.rgb_raw, i, Vec3<T>{}), store3(p.grad_h, i, Vec3<T>{});
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

DFN_HD int weight_count(int inputs, int hidden) { return hidden * (inputs + 1 + kOutputs) + kOutputs; }

// A block takes a tile of blockDim.x samples at a time: each thread encodes one sample, then sums whole hidden units
// over the tile. Shared memory: the block's sum of the weights' gradient, then e, t and d, element k of sample s at
// [k * blockDim.x + s].
template <class T>
__global__ void field_weights_kernel(const Field<T> p) {
    const FieldModel<T>& m = p.model;
    const int inputs = m.grid.levels * m.grid.features, tile = blockDim.x, thread = threadIdx.x;
    const int weights = weight_count(inputs, m.hidden);
    T *sum = dynamic_shared<T>(), *e = sum + weights, *t = e + inputs * tile, *d = t + inputs * tile;
    for (int k = thread; k < weights; k += tile) sum[k] = T(0);
    const int64_t live = live_rows(p.n, p.count);
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

dim3 per_level(const GridLayout& grid, int64_t n) { return dim3(blocks_for(n), grid.levels); }

void launch_weights(const Field<float>& p, const Exec& e) {
    constexpr size_t kShared = 48 * 1024;  // what a block gets without asking
    constexpr int64_t kBlocks = 512;       // enough to fill a device; each adds its sum once
    const int inputs = p.model.grid.levels * p.model.grid.features;
    const auto bytes = [&](int tile) {
        return sizeof(float) * (weight_count(inputs, p.model.hidden) + size_t(tile) * (2 * inputs + kOutputs));
    };
    int tile = 128;
    while (tile > 32 && bytes(tile) > kShared) tile /= 2;
    const DeviceGuard guard(e.device);
    void (*const kernel)(Field<float>) = field_weights_kernel<float>;
    if (bytes(tile) > kShared)  // at most 53 KB, which every supported device has
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes(tile))),
            "field_backward");
    const unsigned blocks = unsigned(std::min<int64_t>(blocks_for(p.n, tile), kBlocks));
    launch_shared("field_backward", e, kernel, blocks, tile, bytes(tile), p);
}

}  // namespace

template <class T>
void hashgrid_forward(const HashGrid<T>& p, const Exec& e) {
    launch("hashgrid_forward", e, hashgrid_forward_kernel<T>, per_level(p.grid, p.n), kBlock, p);
}

template <class T>
void hashgrid_grad_table(const HashGrid<T>& p, const Exec& e) {
    launch("hashgrid_grad_table", e, hashgrid_grad_table_kernel<T>, per_level(p.grid, p.n), kBlock, p);
}

template <class T>
void hashgrid_grad_x(const HashGrid<T>& p, const Exec& e) {
    launch("hashgrid_grad_x", e, hashgrid_grad_x_kernel<T>, blocks_for(p.n), kBlock, p);
}

template <class T>
void hashgrid_grad_x_backward(const HashGrid<T>& p, const Exec& e) {
    launch("hashgrid_grad_x_backward", e, hashgrid_hessian_kernel<T>, blocks_for(p.n), kBlock, p);
    launch("hashgrid_grad_x_backward", e, hashgrid_tangent_kernel<T>, per_level(p.grid, p.n), kBlock, p);
}

template <class T>
void field_forward(const Field<T>& p, const Exec& e) {
    launch("field_forward", e, field_forward_kernel<T>, blocks_for(p.n), kBlock, p);
}

template <class T>
void field_backward(const Field<T>& p, const Exec& e) {
    launch_weights(p, e);
    launch("field_backward", e, field_table_kernel<T>, blocks_for(p.n), kBlock, p);
}

template void hashgrid_forward(const HashGrid<float>&, const Exec&);
template void hashgrid_grad_table(const HashGrid<float>&, const Exec&);
template void hashgrid_grad_x(const HashGrid<float>&, const Exec&);
template void hashgrid_grad_x_backward(const HashGrid<float>&, const Exec&);
template void field_forward(const Field<float>&, const Exec&);
template void field_backward(const Field<float>&, const Exec&);

}  // namespace dfn::cuda
