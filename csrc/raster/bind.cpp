#include "base/bind.h"

#include "raster/antialias.h"
#include "raster/interpolate.h"
#include "raster/rasterise.h"

namespace dfn {

void bind_raster(py::module_& m) {
    DFN_BIND(m, rasterise, Rasterise);
    DFN_BIND(m, rasterise_backward, RasteriseBackward, "screen");
    DFN_BIND(m, interpolate, Interpolate);
    DFN_BIND(m, interpolate_backward, InterpolateBackward, "out");
    DFN_BIND(m, antialias, Antialias);
    DFN_BIND(m, antialias_backward, AntialiasBackward);
}

}  // namespace dfn
