// Bindings of occupancy: integers to pointers to params struct to launcher.
#include "base/bind.h"

#include "occupancy/occupancy.h"

namespace dfn {
namespace {

void occupancy_update_op(uintptr_t grid, uintptr_t bitfield, uintptr_t index, uintptr_t sigma, uintptr_t sums,
    uintptr_t occupied, int64_t cells, int64_t listed, double decay, double threshold, int device, uintptr_t stream,
    int threads) {
    const py::gil_scoped_release nogil;
    const Occupancy<float> p{ptr<float>(grid), ptr<uint8_t>(bitfield), ptr<const int64_t>(index),
        ptr<const float>(sigma), ptr<double>(sums), ptr<int64_t>(occupied), cells, listed, float(decay),
        float(threshold)};
    const Exec e{device, stream, threads};
    DFN_LAUNCH(occupancy_update, float, p, e);
}

void cell_points_op(uintptr_t index, uintptr_t x, int64_t n, int resolution, double bound, int64_t seed,
    int64_t stream_id, int device, uintptr_t stream, int threads) {
    const py::gil_scoped_release nogil;
    const CellPoints<float> p{ptr<const int64_t>(index), ptr<float>(x), n, resolution, float(bound), uint64_t(seed),
        uint64_t(stream_id), seed >= 0};
    const Exec e{device, stream, threads};
    DFN_LAUNCH(cell_points, float, p, e);
}

}  // namespace

void bind_occupancy(py::module_& m) {
    using py::arg;
    m.def("occupancy_update", &occupancy_update_op, arg("grid"), arg("bitfield"), arg("index"), arg("sigma"),
        arg("sums"), arg("occupied"), arg("cells"), arg("listed"), arg("decay"), arg("threshold"), arg("device"),
        arg("stream"), arg("threads"));
    m.def("cell_points", &cell_points_op, arg("index"), arg("x"), arg("n"), arg("resolution"), arg("bound"),
        arg("seed"), arg("stream_id"), arg("device"), arg("stream"), arg("threads"));
    m.attr("occupancy_scratch") = kSumChunks + 1;
}

}  // namespace dfn
