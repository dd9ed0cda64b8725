// Shade on CUDA: one thread per sample around the bodies of shade.h.
#include "base/cuda_util.cuh"
#include "shade/shade.h"

namespace dfn::cuda {
namespace {

template <class T>
__global__ void shade_kernel(Shade<T> p) {
    const int64_t live = live_rows(p.n, p.count);
    DFN_GRID_STRIDE(i, p.n) i < live ? shade_sample(p, i) : clear_sample(p, i);
}

template <class T>
__global__ void shade_backward_kernel(ShadeBackward<T> p) {
    const int64_t live = live_rows(p.forward.n, p.forward.count);
    DFN_GRID_STRIDE(i, p.forward.n) i < live ? shade_sample_backward(p, i) : clear_sample_backward(p, i);
}

}  // namespace

template <class T>
void shade_forward(const Shade<T>& p, const Exec& e) {
    launch("shade", e, shade_kernel<T>, blocks_for(p.n), kBlock, p);
}

template <class T>
void shade_backward(const ShadeBackward<T>& p, const Exec& e) {
    launch("shade_backward", e, shade_backward_kernel<T>, blocks_for(p.forward.n), kBlock, p);
}

DFN_INSTANTIATE_CUDA(shade_forward, Shade);
DFN_INSTANTIATE_CUDA(shade_backward, ShadeBackward);

}  // namespace dfn::cuda
