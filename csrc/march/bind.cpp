#include "base/bind.h"

#include "march/march.h"

namespace dfn {

void bind_march(py::module_& m) { DFN_BIND(m, march, March); }

}  // namespace dfn
