#include "base/bind.h"

#include "composite/composite.h"

namespace dfn {

void bind_composite(py::module_& m) {
    DFN_BIND(m, composite_forward, Composite);
    DFN_BIND(m, composite_backward, CompositeBackward, "orient");
}

}  // namespace dfn
