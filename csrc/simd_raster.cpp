// The vector loops of the rasteriser; compiled once per instruction set as simd_kernels.cpp is, and without contraction
// of products and sums, so that every set gives the same bits.
#include "raster/antialias_block.h"
#include "raster/draw_block.h"
#include "raster/finish_block.h"
#include "raster/interpolate_block.h"
#include "raster/raster_kernels.h"

namespace dfn::DFN_SIMD_LEVEL {

extern const RasterKernels raster_kernels;
const RasterKernels raster_kernels{project, rows_of, clear_tiles, draw, finish, rasterise_backward, interpolate,
    interpolate_backward, antialias_backward};

}  // namespace dfn::DFN_SIMD_LEVEL
