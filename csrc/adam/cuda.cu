// Adam on CUDA: one thread per element around the body of adam.h.
#include "adam/adam.h"
#include "base/cuda_util.cuh"

namespace dfn::cuda {
namespace {

template <class T>
__global__ void adam_kernel(Adam<T> p) {
    const AdamFactors<T> f = read_factors(p);
    int bad = 0;
    DFN_GRID_STRIDE(i, p.n) bad += adam_element(p, f, i);
    if (bad) atomicAdd(reinterpret_cast<unsigned long long*>(p.nonfinite), static_cast<unsigned long long>(bad));
}

}  // namespace

template <class T>
void adam(const Adam<T>& p, const Exec& e) {
    launch("adam_step", e, adam_kernel<T>, blocks_for(p.n), kBlock, p);
}

DFN_INSTANTIATE_CUDA(adam, Adam);

}  // namespace dfn::cuda
