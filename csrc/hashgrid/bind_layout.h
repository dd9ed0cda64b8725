// A GridLayout from the lists of Python.
#pragma once
#include <stdexcept>
#include <vector>

#include "hashgrid/hashgrid.h"

namespace dfn {

using Floats = std::vector<double>;
using Ints = std::vector<int64_t>;

inline GridLayout grid_layout(
    const Floats& scale, const Ints& resolution, const Ints& offset, int features, bool smooth) {
    const int levels = int(scale.size());
    if (levels < 1 || levels > kMaxLevels || levels * features > kMaxInputs)
        throw std::invalid_argument("layout: too many levels or features");
    if (int(resolution.size()) != levels || int(offset.size()) != levels + 1)
        throw std::invalid_argument("layout: lengths differ");
    GridLayout g{};
    g.levels = levels, g.features = features, g.smooth = smooth;
    for (int i = 0; i < levels; ++i) {
        g.scale[i] = float(scale[i]), g.resolution[i] = uint32_t(resolution[i]);
        g.rows[i] = uint32_t(offset[i + 1] - offset[i]), g.offset[i] = offset[i];
    }
    return g;
}

}  // namespace dfn
