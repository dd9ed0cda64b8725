// One launcher per op and direction, declared for both devices with one signature. cpu:: is instantiated for float and
// double, cuda:: for float. cuda:: never allocates device memory and never waits.
#pragma once
#include <cstdint>

namespace dfn {

// Where and how an op runs.
struct Exec {
    int device;        // CUDA device index, -1 = CPU
    uintptr_t stream;  // cudaStream_t on CUDA, 0 on the CPU
    int threads;       // CPU threads
};

// Last in a params struct, with its fields: their names, for the binding (base/bind.h).
#define DFN_FIELDS(...)                   \
    template <class Visit>                \
    void fields(Visit& visit) {           \
        visit(#__VA_ARGS__, __VA_ARGS__); \
    }

#define DFN_DECLARE(op, Params)                 \
    namespace cpu {                             \
    template <class T>                          \
    void op(const Params<T>& p, const Exec& e); \
    }                                           \
    namespace cuda {                            \
    template <class T>                          \
    void op(const Params<T>& p, const Exec& e); \
    }

#define DFN_INSTANTIATE_CPU(op, Params)                         \
    template void op<float>(const Params<float>&, const Exec&); \
    template void op<double>(const Params<double>&, const Exec&)

#define DFN_INSTANTIATE_CUDA(op, Params) template void op<float>(const Params<float>&, const Exec&)

}  // namespace dfn
