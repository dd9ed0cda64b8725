// The Python module dreamfusion_ngp._C. Torch stays on the other side: it sees pointers, sizes, a device and a stream.
#include "base/bind.h"
#include "base/device.h"
#include "simd_kernels.h"

namespace dfn {

namespace {

std::vector<std::string> simd_level_names() {
    std::vector<std::string> names;
    for (const char* const* name = simd_levels(); *name; ++name) names.emplace_back(*name);
    return names;
}

void set_simd(const std::string& name) {
    if (!force_simd(name.c_str())) throw std::invalid_argument("set_simd: no level " + name + " here");
}

py::dict build_info() {
    py::dict info;
#ifdef DFN_CUDA
    info["cuda"] = true;
    info["cuda_runtime"] = cuda::runtime_version();
    info["cuda_driver"] = cuda::driver_version();
    info["cuda_devices"] = cuda::device_count();
#else
    info["cuda"] = false;
#endif
    info["compiler"] = DFN_COMPILER;  // from CMakeLists.txt; what else setup.py knows is in _build.json
    info["simd"] = simd_kernels().name;
    info["simd_levels"] = simd_level_names();
    info["max_levels"] = kMaxLevels;
    info["max_hidden"] = kMaxHidden;
    return info;
}

}  // namespace
}  // namespace dfn

PYBIND11_MODULE(_C, m) {
    m.doc() = "Native kernels of dreamfusion_ngp; use dreamfusion_ngp.ops.";
    m.def("build_info", &dfn::build_info, "Facts of this build, and of the CUDA driver and devices it sees.");
    m.def("set_simd", &dfn::set_simd, pybind11::arg("name"),
        "Use the level of this name, one of build_info()['simd_levels']; an empty name: choose as at the start.");
    dfn::bind_adam(m);
    dfn::bind_base(m);
    dfn::bind_ceilings(m);
    dfn::bind_composite(m);
    dfn::bind_field(m);
    dfn::bind_hashgrid(m);
    dfn::bind_march(m);
    dfn::bind_occupancy(m);
    dfn::bind_raster(m);
    dfn::bind_shade(m);
}
