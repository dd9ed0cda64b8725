#include "base/bind.h"

#include "adam/adam.h"

namespace dfn {

void bind_adam(py::module_& m) { DFN_BIND(m, adam, Adam); }

}  // namespace dfn
