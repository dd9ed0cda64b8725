// Bindings of what is no op: the CPU's memory, random numbers.
#include <algorithm>

#include "base/bind.h"
#include "base/hd.h"
#include "base/parallel.h"
#include "base/workspace.h"

namespace dfn {
namespace {

// Zeroes fresh memory of the CPU, on huge pages where the system gives them.
void clear(uintptr_t address, int64_t bytes, int threads) {
    py::gil_scoped_release nogil;
    char* const memory = ptr<char>(address);
    advise_huge(memory, size_t(bytes));
    parallel_for(bytes, threads, [&](int64_t i, int64_t end) { std::fill(memory + i, memory + end, 0); }, 1 << 21);
}

std::vector<uint32_t> philox_words(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
    const Random4 r = philox(key, counter_low, counter_high);
    return {r.v[0], r.v[1], r.v[2], r.v[3]};
}

}  // namespace

void bind_base(py::module_& m) {
    m.def("trim", &Workspace::trim, "Give back the memory that CPU kernels keep between calls.");
    m.def("clear", &clear, py::arg("address"), py::arg("bytes"), py::arg("threads"));
    m.def("philox", &philox_words, py::arg("key"), py::arg("counter_low"), py::arg("counter_high"),
        "Philox4x32-10: four words.");
}

}  // namespace dfn
