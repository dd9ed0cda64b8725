// What gradients of vertices are summed into.
#pragma once
#include "base/hd.h"

namespace dfn {

constexpr int kPage = 64;  // rows

// Rows of a memory that holds nothing yet: a page of them is cleared when first asked for.
template <class T>
struct SparseRows {
    T* rows;  // null: nothing is wanted
    int width;
    uint8_t* touched;  // a page each

    DFN_HD explicit operator bool() const { return rows; }

    DFN_HD T* operator[](int64_t row) const {
        const int64_t page = row / kPage;
        if (!touched[page]) {
            touched[page] = 1;
            T* const first = rows + page * kPage * width;
            for (int64_t i = 0; i < int64_t(kPage) * width; ++i) first[i] = T(0);
        }
        return rows + row * width;
    }

    DFN_HD void add(int64_t row, int column, T value) const { (*this)[row][column] += value; }
};

}  // namespace dfn
