// Sums over pixels into the rows of vertices on the CPU, in an order that no number of threads changes.
#pragma once
#include <algorithm>
#include <vector>

#include "base/loops.h"
#include "base/workspace.h"
#include "raster/sparse_rows.h"

namespace dfn::cpu {

constexpr int64_t kStrips = 8;  // partial sums of one target, at least

// body(first row, end row, target) adds rows of pixels, of which each of `groups` has `rows`, to a target of `vertices`
// rows; out (groups, vertices, columns) is the sum. Strips of a group have targets of their own, which are summed in
// order; where a strip adds nothing, its target is neither cleared nor read.
template <class T, class Body>
void sum_rows(int64_t groups, int64_t rows, int64_t vertices, int columns, T* out, const Exec& e, Body body) {
    const int64_t strips = std::max<int64_t>(1, std::min((kStrips + groups - 1) / std::max<int64_t>(groups, 1), rows));
    const int64_t pages = (vertices + kPage - 1) / kPage, size = pages * kPage * columns;
    const Workspace work(groups * strips * size * int64_t(sizeof(T) / sizeof(float)));
    std::vector<uint8_t> touched(groups * strips * pages);
    T* const memory = reinterpret_cast<T*>(work.data());
    for_each(
        groups * strips, e,
        [&](int64_t i) {
            const int64_t first = i / strips * rows, strip = i % strips;
            const SparseRows<T> target{memory + i * size, columns, touched.data() + i * pages};
            body(first + rows * strip / strips, first + rows * (strip + 1) / strips, target);
        },
        1);
    const auto sum_page = [&](int64_t i) {
        const int64_t group = i / pages, page = i % pages, first = page * kPage;
        const int64_t count = std::min<int64_t>(kPage, vertices - first) * columns;
        T* const sum = out + (group * vertices + first) * columns;
        bool empty = true;
        for (int64_t strip = group * strips; strip < (group + 1) * strips; ++strip) {
            if (!touched[strip * pages + page]) continue;
            const T* const part = memory + strip * size + first * columns;
            if (empty)
                std::copy(part, part + count, sum);
            else
                for (int64_t k = 0; k < count; ++k) sum[k] += part[k];
            empty = false;
        }
        if (empty) std::fill(sum, sum + count, T(0));
    };
    for_each(groups * pages, e, sum_page, 16);
}

}  // namespace dfn::cpu
