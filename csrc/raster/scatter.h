// Sums over pixels into shared targets on the CPU, in an order that no number of threads changes.
#pragma once
#include <algorithm>

#include "base/loops.h"
#include "base/workspace.h"

namespace dfn::cpu {

constexpr int64_t kStrips = 8;  // partial sums of one target, at least

// body(first row, end row, target) adds rows of `groups` x `rows` to a target of `size` numbers each group; out
// (groups, size) is their sum. Strips of a group add to memory of their own, which is summed in order.
template <class T, class Body>
void sum_rows(int64_t groups, int64_t rows, int64_t size, T* out, const Exec& e, Body body) {
    const int64_t strips = std::max<int64_t>(1, std::min((kStrips + groups - 1) / std::max<int64_t>(groups, 1), rows));
    const Workspace work(groups * (strips - 1) * size * int64_t(sizeof(T) / sizeof(float)));
    T* const others = reinterpret_cast<T*>(work.data());
    const auto target = [&](int64_t group, int64_t strip) {
        return strip == 0 ? out + group * size : others + (group * (strips - 1) + strip - 1) * size;
    };
    for_each(
        groups * strips, e,
        [&](int64_t i) {
            const int64_t group = i / strips, strip = i % strips;
            T* const sum = target(group, strip);
            std::fill(sum, sum + size, T(0));
            body(group * rows + rows * strip / strips, group * rows + rows * (strip + 1) / strips, sum);
        },
        1);
    if (strips == 1) return;
    parallel_for(groups * size, e.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            T sum = out[i];
            for (int64_t strip = 1; strip < strips; ++strip) sum += target(i / size, strip)[i % size];
            out[i] = sum;
        }
    });
}

}  // namespace dfn::cpu
