// The Python module dreamfusion_ngp._C. Torch stays on the other side: it sees pointers, sizes, a device and a stream.
#include "bind.h"

namespace dfn {

#ifdef DFN_CUDA
namespace cuda {
int runtime_version();  // of the CUDA runtime linked in, 13000 = 13.0
int driver_version();   // of the installed driver, 0 = none
int device_count();
}  // namespace cuda
#endif

namespace {

const char* simd_level() {
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return "x86-64-v4";
    if (__builtin_cpu_supports("avx2")) return "x86-64-v3";
    return "x86-64";
#else
    return "generic";
#endif
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
    info["compiler"] = DFN_COMPILER;  // from CMakeLists.txt; what setup.py knows besides is in _build.json
    info["simd"] = simd_level();
    info["max_levels"] = kMaxLevels;
    info["max_hidden"] = kMaxHidden;
    return info;
}

}  // namespace
}  // namespace dfn

PYBIND11_MODULE(_C, m) {
    m.doc() = "Native kernels of dreamfusion_ngp; use dreamfusion_ngp.ops.";
    m.def("build_info", &dfn::build_info, "Facts of this build, and of the CUDA driver and devices it sees.");
    dfn::bind_field(m);
    dfn::bind_render(m);
}
