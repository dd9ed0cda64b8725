// Composite on the CPU: the bodies of composite.h with the exponentials of a vector of rows at a time.
#pragma once
#include "base/simd_math.h"
#include "composite/composite.h"

namespace dfn::DFN_SIMD_LEVEL {
namespace {

// `transparency` of composite.h, a vector of rows ahead.
class VectorTransparency {
public:
    DFN_HD explicit VectorTransparency(const Composite<float>& p) : p_(p) {}

    DFN_HD float operator()(int64_t row) {
        if (row < first_ || row >= first_ + kWidth) look_ahead(row);
        return clear_[row - first_];
    }

private:
    DFN_HD void look_ahead(int64_t row) {
        Floats sigma{};
        if (row + kWidth <= p_.n)
            sigma = load(p_.sigma + row);
        else
            for (int i = 0; row + i < p_.n; ++i) sigma[i] = p_.sigma[row + i];
        store(clear_, exponential(-(sigma * p_.step)));
        first_ = row;
    }

    const Composite<float>& p_;
    int64_t first_ = -kWidth;
    alignas(64) float clear_[kWidth];
};

void composite(const Composite<float>& p, int64_t begin, int64_t end) {
    VectorTransparency clear(p);
    for (int64_t ray = begin; ray < end; ++ray) composite_ray(p, ray, clear);
}

void composite_backward(const CompositeBackward<float>& p, int64_t begin, int64_t end) {
    VectorTransparency clear(p.forward);
    for (int64_t ray = begin; ray < end; ++ray) composite_ray_backward(p, ray, clear);
}

}  // namespace
}  // namespace dfn::DFN_SIMD_LEVEL
