// What this processor can do at most, for the benches: loops that do nothing else, on all threads at once.
#include "base/bind.h"
#include "base/parallel.h"
#include "simd_kernels.h"

namespace dfn {
namespace {

// Sums `n` random rows of a table of pairs, cut into shares for the threads.
void read_pairs(uintptr_t table, uintptr_t rows, int64_t n, int threads) {
    const SimdKernels& simd = simd_kernels();
    std::vector<float> sums(threads);
    py::gil_scoped_release nogil;
    const int64_t share = n / threads;
    parallel_for(
        threads, threads,
        [&](int64_t i, int64_t) {
            sums[i] = simd.read_pairs(ptr<const float>(table), ptr<const uint32_t>(rows) + i * share, share);
        },
        1);
}

// Adds to `n` random rows of a table of pairs; each thread has its own table, as in the backward of the hash grid.
void add_pairs(const std::vector<uintptr_t>& tables, uintptr_t rows, int64_t n) {
    const SimdKernels& simd = simd_kernels();
    std::vector<float> sums(tables.size());
    py::gil_scoped_release nogil;
    parallel_for(
        int64_t(tables.size()), int(tables.size()),
        [&](int64_t i, int64_t) { sums[i] = simd.add_pairs(ptr<float>(tables[i]), ptr<const uint32_t>(rows), n); }, 1);
}

// Returns how many floating-point operations were done.
double multiply_add(int64_t rounds, int threads) {
    const SimdKernels& simd = simd_kernels();
    std::vector<float> sums(threads);
    py::gil_scoped_release nogil;
    parallel_for(threads, threads, [&](int64_t i, int64_t) { sums[i] = simd.multiply_add(rounds); }, 1);
    return 2.0 * 12 * simd.width * double(rounds) * threads;
}

}  // namespace

void bind_ceilings(py::module_& m) {
    m.def("read_pairs", &read_pairs, py::arg("table"), py::arg("rows"), py::arg("n"), py::arg("threads"));
    m.def("add_pairs", &add_pairs, py::arg("tables"), py::arg("rows"), py::arg("n"));
    m.def("multiply_add", &multiply_add, py::arg("rounds"), py::arg("threads"));
}

}  // namespace dfn
