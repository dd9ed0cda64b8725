// Table of contents: one launcher per op and direction, declared for both devices with one signature.
// cpu:: is instantiated for float and double, cuda:: for float. cuda:: never allocates device memory and never waits.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "adam/adam.h"
#include "composite/composite.h"
#include "field/field.h"
#include "hashgrid/hashgrid.h"
#include "march/march.h"
#include "occupancy/occupancy.h"
#include "shade/shade.h"

namespace dfn {

// Where and how an op runs.
struct Exec {
    int device;        // CUDA device index, -1 = CPU
    uintptr_t stream;  // cudaStream_t on CUDA, 0 on the CPU
    int threads;       // CPU threads
};

#define DFN_DECLARE(op, Params)                 \
    namespace cpu {                             \
    template <class T>                          \
    void op(const Params<T>& p, const Exec& e); \
    }                                           \
    namespace cuda {                            \
    template <class T>                          \
    void op(const Params<T>& p, const Exec& e); \
    }

#ifdef DFN_CUDA
#define DFN_LAUNCH_CUDA(op, T, p, e)                                  \
    if constexpr (std::is_same_v<T, float>) return cuda::op<T>(p, e); \
    throw std::invalid_argument(#op ": float64 runs on the CPU only")
#else
#define DFN_LAUNCH_CUDA(op, T, p, e) throw std::runtime_error(#op ": this build has no CUDA code")
#endif

// Runs `op` with parameters p of scalar type T where e says; the last statement of a function that returns void.
#define DFN_LAUNCH(op, T, p, e)                      \
    do {                                             \
        if ((e).device < 0) return cpu::op<T>(p, e); \
        DFN_LAUNCH_CUDA(op, T, p, e);                \
    } while (0)

namespace cpu {
void trim();
}  // namespace cpu

// hashgrid, field
DFN_DECLARE(hashgrid_forward, HashGrid)
DFN_DECLARE(hashgrid_grad_table, HashGrid)
DFN_DECLARE(hashgrid_grad_x, HashGrid)
DFN_DECLARE(hashgrid_grad_x_backward, HashGrid)
DFN_DECLARE(field_forward, Field)
DFN_DECLARE(field_backward, Field)

// march, occupancy, shade, composite, optimizer
DFN_DECLARE(march, March)
DFN_DECLARE(occupancy_update, Occupancy)
DFN_DECLARE(cell_points, CellPoints)
DFN_DECLARE(shade_forward, Shade)
DFN_DECLARE(shade_backward, ShadeBackward)
DFN_DECLARE(composite_forward, Composite)
DFN_DECLARE(composite_backward, CompositeBackward)
DFN_DECLARE(adam, Adam)

}  // namespace dfn
