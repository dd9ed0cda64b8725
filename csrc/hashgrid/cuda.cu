// Hash grid on CUDA: one thread per sample around the bodies of hashgrid.h. The number of valid rows is read from
// device memory. Table gradients are fp32 atomics.
#include "hashgrid/grid_cuda.cuh"

namespace dfn::cuda {
namespace {

// One launch row of blocks per level: the level's part of the table stays in cache.
template <class T>
__global__ void hashgrid_forward_kernel(const HashGrid<T> p) {
    const int64_t live = live_rows(p.n, p.count);
    DFN_GRID_STRIDE(i, p.n) hashgrid_forward_body(p, i, blockIdx.y, i < live);
}

// The table's gradient of N features at a time, of value * w_c + (grad w_c) . direction times grad_y; direction is null
// for the encoding, the slope times the cotangent of grad_x for its derivative. Whole warps stay together.
template <int N, bool kTangent>
__global__ void hashgrid_scatter_kernel(const HashGrid<float> p) {
    const int64_t live = live_rows(p.n, p.count), width = p.grid.levels * p.grid.features;
    const int level = blockIdx.y, F = p.grid.features;
    for (int64_t first = int64_t(blockIdx.x) * blockDim.x; first < live; first += int64_t(gridDim.x) * blockDim.x) {
        const int64_t i = first + threadIdx.x;
        const bool here = i < live;
        const Corners at = corners_of(p.grid, level, here ? load3(p.x, i) : Vec3<float>{});
        const Vec3<float> sv = kTangent && here ? at.slope * load3(p.grad_grad_x, i) : Vec3<float>{};
        for (int f = 0; f < F; f += N) {
            float out[N][8];
            for (int k = 0; k < N; ++k) {
                const float g = here ? p.grad_y[i * width + level * F + f + k] : 0.f;
                trilinear_adjoint(kTangent ? 0.f : g, g * sv, at.weight, out[k]);
            }
            scatter_warp(p.grad_table + p.grid.offset[level] * F + f, F, at, here, out);
        }
    }
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
    DFN_GRID_STRIDE(i, p.n) hashgrid_tangent_value(p, i, blockIdx.y, i < live);
}

dim3 per_level(const GridLayout& grid, int64_t n) { return dim3(blocks_for(n), grid.levels); }

template <bool kTangent>
void launch_scatter(const char* op, const HashGrid<float>& p, const Exec& e) {
    const bool pairs = p.grid.features % 2 == 0 && holds_pairs(p.grad_table);
    const auto kernel = pairs ? hashgrid_scatter_kernel<2, kTangent> : hashgrid_scatter_kernel<1, kTangent>;
    launch(op, e, kernel, per_level(p.grid, p.n), kBlock, p);
}

}  // namespace

template <class T>
void hashgrid_forward(const HashGrid<T>& p, const Exec& e) {
    launch("hashgrid_forward", e, hashgrid_forward_kernel<T>, per_level(p.grid, p.n), kBlock, p);
}

template <class T>
void hashgrid_grad_table(const HashGrid<T>& p, const Exec& e) {
    launch_scatter<false>("hashgrid_grad_table", p, e);
}

template <class T>
void hashgrid_grad_x(const HashGrid<T>& p, const Exec& e) {
    launch("hashgrid_grad_x", e, hashgrid_grad_x_kernel<T>, blocks_for(p.n), kBlock, p);
}

template <class T>
void hashgrid_grad_x_backward(const HashGrid<T>& p, const Exec& e) {
    launch("hashgrid_grad_x_backward", e, hashgrid_hessian_kernel<T>, blocks_for(p.n), kBlock, p);
    launch("hashgrid_grad_x_backward", e, hashgrid_tangent_kernel<T>, per_level(p.grid, p.n), kBlock, p);
    launch_scatter<true>("hashgrid_grad_x_backward", p, e);
}

DFN_INSTANTIATE_CUDA(hashgrid_forward, HashGrid);
DFN_INSTANTIATE_CUDA(hashgrid_grad_table, HashGrid);
DFN_INSTANTIATE_CUDA(hashgrid_grad_x, HashGrid);
DFN_INSTANTIATE_CUDA(hashgrid_grad_x_backward, HashGrid);

}  // namespace dfn::cuda
