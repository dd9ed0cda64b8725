#include "base/bind.h"

#include "hashgrid/hashgrid.h"

namespace dfn {

namespace {

GridLayout grid_layout(const std::vector<double>& scale, const std::vector<int64_t>& resolution,
    const std::vector<int64_t>& offset, int features, bool smooth) {
    const int levels = int(scale.size());
    if (levels < 1 || levels > kMaxLevels || features < 1 || levels * features > kMaxInputs)
        throw std::invalid_argument("layout: too many levels or features");
    if (int(resolution.size()) != levels || int(offset.size()) != levels + 1)
        throw std::invalid_argument("layout: lengths differ");
    GridLayout g{};
    g.levels = levels;
    g.features = features;
    g.smooth = smooth;
    for (int i = 0; i < levels; ++i) {
        g.scale[i] = float(scale[i]);
        g.resolution[i] = uint32_t(resolution[i]);
        g.rows[i] = uint32_t(offset[i + 1] - offset[i]);
        g.offset[i] = offset[i];
    }
    return g;
}

}  // namespace

void bind_hashgrid(py::module_& m) {
    py::class_<GridLayout>(m, "GridLayout")
        .def(py::init(&grid_layout), py::kw_only(), py::arg("scale"), py::arg("resolution"), py::arg("offset"),
            py::arg("features"), py::arg("smooth"));
    DFN_BIND(m, hashgrid_forward, HashGrid, "grad_y", "grad_grad_x", "grad_x", "grad_grad_y", "grad_table");
    DFN_BIND(m, hashgrid_grad_table, HashGrid, "table", "grad_grad_x", "y", "grad_x", "grad_grad_y");
    DFN_BIND(m, hashgrid_grad_x, HashGrid, "grad_grad_x", "y", "grad_grad_y", "grad_table");
    DFN_BIND(m, hashgrid_grad_x_backward, HashGrid, "y");
}

}  // namespace dfn
