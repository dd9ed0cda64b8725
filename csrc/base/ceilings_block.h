// What limits the kernels, for the benches: reads, additions and arithmetic with nothing else to do.
#pragma once
#include "base/simd.h"

namespace dfn::DFN_SIMD_LEVEL {
namespace {

float read_pairs(const float* table, const uint32_t* rows, int64_t n) {
    Floats sums[2] = {}, a, b;
    for (int64_t i = 0; i + kWidth <= n; i += kWidth) {
        Words at;
        std::memcpy(&at, rows + i, sizeof at);
        gather_pairs(table, at, a, b);
        sums[0] += a;
        sums[1] += b;
    }
    return sum(sums[0] + sums[1]);
}

float add_pairs(float* table, const uint32_t* rows, int64_t n) {
    const Pair one = {1.0f, 0.5f};
    for (int64_t i = 0; i < n; ++i) *reinterpret_cast<Pair*>(table + 2 * int64_t(rows[i])) += one;
    return table[0];
}

float multiply_add(int64_t rounds) {
    Floats s[12];
    for (int k = 0; k < 12; ++k) s[k] = splat(1.0f + float(k));
    const Floats factor = splat(0.999f), term = splat(0.001f);
    for (int64_t i = 0; i < rounds; ++i)
        for (int k = 0; k < 12; ++k) s[k] = s[k] * factor + term;
    Floats total{};
    for (int k = 0; k < 12; ++k) total += s[k];
    return sum(total);
}

}  // namespace
}  // namespace dfn::DFN_SIMD_LEVEL
