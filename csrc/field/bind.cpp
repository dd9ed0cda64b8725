#include "base/bind.h"

#include "field/field.h"

namespace dfn {

namespace {

template <class Launch>
auto checked(Launch launch) {
    return [launch](auto scalar, const auto& p, const Exec& e) {
        if (p.model.hidden < 1 || p.model.hidden > kMaxHidden) throw std::invalid_argument("hidden: too many units");
        launch(scalar, p, e);
    };
}

}  // namespace

void bind_field(py::module_& m) {
    def_op<Field>(m, "field_forward", {"d_h", "d_rgb_raw", "d_grad_h", "grad_table", "grad_weights"},
        checked(DFN_LAUNCHER(field_forward)));
    def_op<Field>(m, "field_backward", {"h", "rgb_raw", "grad_h"}, checked(DFN_LAUNCHER(field_backward)));
}

}  // namespace dfn
