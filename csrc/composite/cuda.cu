// Launchers of composite_cuda.cuh: a warp per ray.
#include "composite/composite_cuda.cuh"

namespace dfn::cuda {
namespace {

constexpr unsigned kWarpsBlock = 128;

template <class T>
__global__ void clear_gradient_kernel(CompositeBackward<T> p) {
    const Rows used = rows_in_use(p.forward);
    DFN_GRID_STRIDE(i, p.forward.n - (used.end - used.begin)) clear_spare(p, used, i);
}

}  // namespace

template <class T>
void composite_forward(const Composite<T>& p, const Exec& e) {
    launch("composite", e, composite_kernel, blocks_for(p.rays * kWarp, kWarpsBlock), kWarpsBlock, p);
}

template <class T>
void composite_backward(const CompositeBackward<T>& p, const Exec& e) {
    launch("composite_backward", e, composite_backward_kernel, blocks_for(p.forward.rays * kWarp, kWarpsBlock),
        kWarpsBlock, p);
    launch("composite_backward", e, clear_gradient_kernel<T>, blocks_for(p.forward.n), kBlock, p);
}

DFN_INSTANTIATE_CUDA(composite_forward, Composite);
DFN_INSTANTIATE_CUDA(composite_backward, CompositeBackward);

}  // namespace dfn::cuda
