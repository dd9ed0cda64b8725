// Loops of the CPU launchers on threads. A result depends on its chunk alone, and what crosses chunks is summed in a
// fixed order or counted in integers: bit-identical for any number of threads.
#pragma once
#include <atomic>

#include "base/launch.h"
#include "base/parallel.h"

namespace dfn::cpu {

constexpr int64_t kRays = 128;   // per chunk: rays differ in length
constexpr int64_t kRows = 1024;  // per chunk, whole blocks of the vector loops

// body(i) for every i of [0, n).
template <class Body>
void for_each(int64_t n, const Exec& e, Body body, int64_t grain = 1024) {
    parallel_for(
        n, e.threads,
        [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) body(i);
        },
        grain);
}

// The sum over all i of [0, n) of the integers body(i).
template <class Body>
int64_t sum_of(int64_t n, const Exec& e, Body body, int64_t grain = 4096) {
    std::atomic<int64_t> total{0};
    parallel_for(
        n, e.threads,
        [&](int64_t begin, int64_t end) {
            int64_t sum = 0;
            for (int64_t i = begin; i < end; ++i) sum += body(i);
            total += sum;
        },
        grain);
    return total;
}

}  // namespace dfn::cpu
