#include "base/bind.h"

#include "occupancy/occupancy.h"

namespace dfn {

void bind_occupancy(py::module_& m) {
    DFN_BIND(m, occupancy_update, Occupancy);
    DFN_BIND(m, cell_points, CellPoints);
    m.attr("occupancy_scratch") = kSumChunks + 1;
}

}  // namespace dfn
