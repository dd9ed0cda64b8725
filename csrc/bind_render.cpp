#include "bind.h"

namespace dfn {

void bind_render(py::module_&) {}

}  // namespace dfn
