// Chooses among the kernels that are compiled per instruction set, when first asked. DREAMFUSION_NGP_SIMD=x86-64-v3
// forces a level; a level that is not there is an error, so that nobody measures another than he asked for.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "simd_kernels.h"

namespace dfn {

#if defined(DFN_X86_64_V4)
namespace x86_64_v4 {
extern const SimdKernels kernels;
}
#endif
#if defined(DFN_X86_64_V3)
namespace x86_64_v3 {
extern const SimdKernels kernels;
}
#endif
#if defined(DFN_X86_64_V2)
namespace x86_64_v2 {
extern const SimdKernels kernels;
}
#endif
namespace plain {
extern const SimdKernels kernels;
}

namespace {

constexpr int kMost = 5;  // four levels and a null

struct Levels {
    const SimdKernels* kernels[kMost] = {};
    const char* names[kMost] = {};
    int count = 0;

    void add(bool runs, const SimdKernels& k) {
        if (runs) {
            kernels[count] = &k;
            names[count++] = k.name;
        }
    }
    Levels() {
#if defined(__x86_64__)
        __builtin_cpu_init();
        const bool v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
        const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
        const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
#if defined(DFN_X86_64_V4)
        add(v4, x86_64_v4::kernels);
#endif
#if defined(DFN_X86_64_V3)
        add(v3, x86_64_v3::kernels);
#endif
#if defined(DFN_X86_64_V2)
        add(v2, x86_64_v2::kernels);
#endif
        (void)v4;
#endif
        add(true, plain::kernels);
    }
    const SimdKernels* find(const char* name) const {
        if (!*name) return kernels[0];
        for (int i = 0; i < count; ++i)
            if (std::strcmp(name, names[i]) == 0) return kernels[i];
        return nullptr;
    }
};

const Levels& levels() {
    static const Levels found;
    return found;
}

std::atomic<const SimdKernels*> chosen{nullptr};

}  // namespace

const SimdKernels& simd_kernels() {
    const SimdKernels* kernels = chosen;
    if (kernels) return *kernels;
    const char* wanted = std::getenv("DREAMFUSION_NGP_SIMD");
    kernels = levels().find(wanted ? wanted : "");
    if (!kernels) {
        std::string known;
        for (const char* const* name = simd_levels(); *name; ++name) known += " " + std::string(*name);
        throw std::invalid_argument("DREAMFUSION_NGP_SIMD=" + std::string(wanted) + ": here are only" + known);
    }
    chosen = kernels;
    return *kernels;
}

const char* const* simd_levels() { return levels().names; }

bool force_simd(const char* name) {
    const SimdKernels* const kernels = levels().find(name);
    if (kernels) chosen = *name ? kernels : nullptr;
    return kernels;
}

}  // namespace dfn
