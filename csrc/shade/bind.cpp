#include "base/bind.h"

#include "shade/shade.h"

namespace dfn {

void bind_shade(py::module_& m) {
    DFN_BIND(m, shade_forward, Shade);
    DFN_BIND(m, shade_backward, ShadeBackward, "sigma", "rgb", "normal");
}

}  // namespace dfn
