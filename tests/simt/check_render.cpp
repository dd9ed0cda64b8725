// March, occupancy, shade, composite and adam: CUDA kernels on the SIMT machine against the CPU launchers.
#include "adam/adam.h"
#include "check.h"
#include "composite/composite.h"
#include "march/march.h"
#include "occupancy/occupancy.h"
#include "shade/shade.h"

namespace check {
namespace {

using namespace dfn;

Buffer<uint8_t> random_bits(Random& random, int resolution, int percent) {
    Buffer<uint8_t> bits(int64_t(resolution) * resolution * resolution / 8);
    for (uint8_t& byte : bits)
        for (int k = 0; k < 8; ++k) byte |= uint8_t((random.integer(1, 100) <= percent) << k);
    return bits;
}

// From around the cube towards it; some along an axis, some past it, some from inside, some not numbers.
void random_rays(Random& random, Buffer<float>& o, Buffer<float>& d, int64_t rays) {
    for (int64_t r = 0; r < rays; ++r) {
        const int64_t kind = random.integer(0, 11);
        float length = 0;
        for (int axis = 0; axis < 3; ++axis) {
            o[3 * r + axis] = random.uniform(-1, 1) * (kind == 0 ? 0.9f : 3);
            d[3 * r + axis] = random.uniform(-1, 1) * (kind == 1 ? 1 : 0.7f) - (kind == 1 ? 0 : o[3 * r + axis]);
            if (kind == 2) d[3 * r + axis] = float(axis == r % 3);
            length += d[3 * r + axis] * d[3 * r + axis];
        }
        for (int axis = 0; axis < 3; ++axis) d[3 * r + axis] /= std::sqrt(length);
        if (kind == 3) o[3 * r + r % 3] = r % 2 ? NAN : INFINITY;
        if (kind == 4) d[3 * r] = d[3 * r + 1] = d[3 * r + 2] = 0;
    }
}

struct Marched {
    Buffer<uint8_t> blocks;
    Buffer<int32_t> counts, ray_id, offsets;
    Buffer<float> t, x;
    Buffer<int64_t> info;
};

template <class Run>
Marched run_march(March<float> p, Run run) {
    const int64_t row = p.resolution / kBlockEdge;
    Marched m{Buffer<uint8_t>(2 * row * row * row), Buffer<int32_t>(p.rays), Buffer<int32_t>(p.budget),
        Buffer<int32_t>(p.rays + 1), unset(p.budget), unset(3 * p.budget), Buffer<int64_t>(2)};
    p.blocks = m.blocks.get(), p.counts = m.counts.get(), p.t = m.t.get(), p.ray_id = m.ray_id.get();
    p.x = m.x.get(), p.offsets = m.offsets.get(), p.info = m.info.get();
    run(p);
    return m;
}

// -> the samples that were wanted, dropped ones included.
int64_t check_march(Random& random, int resolution, int percent, int64_t rays, int64_t budget, bool jittered) {
    Buffer<float> o(3 * rays), d(3 * rays);
    random_rays(random, o, d, rays);
    const Buffer<uint8_t> bits = random_bits(random, resolution, percent);
    Buffer<int64_t> stream(1, [] { return int64_t(9); });
    March<float> p{};
    p.rays_o = o.get(), p.rays_d = d.get(), p.bitfield = bits.get(), p.rays = rays, p.budget = budget;
    p.resolution = resolution, p.bound = 1, p.near = 0.1f, p.step = 0.07f, p.max_steps = 51;
    p.seed = 3, p.stream = stream.get(), p.jittered = jittered;
    const Marched want = run_march(p, [](const auto& q) { cpu::march(q, on_cpu); });
    const Marched got = run_march(p, [](const auto& q) { on_simt([&](const Exec& e) { cuda::march(q, e); }); });
    equal("info", got.info, want.info), equal("offsets", got.offsets, want.offsets), equal("t", got.t, want.t);
    equal("ray_id", got.ray_id, want.ray_id), equal("x", got.x, want.x);
    return want.info[0] + want.info[1];
}

void check_marches(Random& random, bool thorough) {
    for (const int64_t rays : {0, 1, 65, 1100}) {
        for (const int resolution : {4, 12, 32}) {
            if (!thorough && rays > 100) continue;
            for (const int percent : {0, 3, 100}) {
                now = "march of " + std::to_string(rays) + " rays, resolution " + std::to_string(resolution) + ", " +
                      std::to_string(percent) + "% occupied";
                const int64_t all = check_march(random, resolution, percent, rays, 64 * rays + 1, percent % 2);
                if (!all) continue;
                check_march(random, resolution, percent, rays, std::max<int64_t>(1, all / 3), percent % 2);
                check_march(random, resolution, percent, rays, 1, true);
            }
        }
    }
}

void check_occupancy(Random& random, int resolution, int64_t listed, float level) {
    const int64_t cells = int64_t(resolution) * resolution * resolution;
    const Buffer<float> grid = random.floats(cells, -0.05f, level), sigma = random.floats(listed, -0.2f, 2 * level);
    Buffer<int64_t> index(listed, [&] { return random.integer(-2, cells + 1); });
    const float special[] = {NAN, INFINITY, -INFINITY, -0.f};
    for (int64_t i = 0; i < listed; ++i)
        if (random.integer(0, 9) == 0) sigma[i] = special[i % 4], index[i] = index[i / 2];
    if (level > 0) grid[cells / 2] = NAN;
    struct Result {
        Buffer<float> grid;
        Buffer<uint8_t> bits;
        Buffer<int64_t> occupied;
        Buffer<double> sums;
    };
    const auto run = [&](auto launch) {
        Result r{grid, Buffer<uint8_t>(cells / 8), Buffer<int64_t>(1), Buffer<double>(kSumChunks + 1)};
        launch(Occupancy<float>{r.grid.get(), r.bits.get(), index.get(), sigma.get(), r.sums.get(), r.occupied.get(),
            cells, listed, 0.95f, 0.3f});
        return r;
    };
    const Result want = run([](const auto& p) { cpu::occupancy_update(p, on_cpu); });
    const Result got = run([](const auto& p) { on_simt([&](const Exec& e) { cuda::occupancy_update(p, e); }); });
    equal("grid", got.grid, want.grid), equal("bits", got.bits, want.bits);
    equal("occupied", got.occupied, want.occupied), equal("sums", got.sums, want.sums);
}

void check_cell_points(Random& random, int64_t n, bool jittered) {
    const Buffer<int64_t> index(n, [&] { return random.integer(0, 12 * 12 * 12 - 1); });
    const Buffer<float> want = unset(3 * n), got = unset(3 * n);
    CellPoints<float> p{index.get(), want.get(), n, 12, 1.25f, 5, 6, jittered};
    cpu::cell_points(p, on_cpu);
    p.x = got.get();
    on_simt([&](const Exec& e) { cuda::cell_points(p, e); });
    close("x", got, want, 1e-6);
}

void check_shade(Random& random, int64_t n, const Count& count, bool exponential) {
    const Buffer<float> h = random.floats(n, -3, 17), raw = random.floats(3 * n, -3, 3);
    const Buffer<float> g = random.floats(3 * n, -1, 1);
    const Buffer<float> x = random.floats(3 * n, -1, 1), d1 = random.floats(n, -1, 1), d2 = random.floats(3 * n, -1, 1);
    const Buffer<float> d3 = random.floats(3 * n, -1, 1), view = random.floats(18, 0.2f, 2);
    view[5] = 0, view[11] = 1, view[17] = 0;
    for (float& v : h)
        if (std::abs(v - 15) < 1e-3f) v = 14;
    const Buffer<int32_t> ray(n, [&] { return int32_t(random.integer(-1, 40)); });
    const auto run = [&](auto forward, auto backward) {
        std::vector<Buffer<float>> out;
        for (const int64_t size : {n, 3 * n, 3 * n, n, 3 * n, 3 * n}) out.push_back(unset(size));
        const Shade<float> p{h.get(), raw.get(), g.get(), x.get(), ray.get(), view.get(), count.get(), out[0].get(),
            out[1].get(), out[2].get(), n, 3, 10, 0.01f, exponential};
        forward(p);
        backward(ShadeBackward<float>{p, d1.get(), d2.get(), d3.get(), out[3].get(), out[4].get(), out[5].get()});
        return out;
    };
    const auto want = run(
        [](const auto& p) { cpu::shade_forward(p, on_cpu); }, [](const auto& p) { cpu::shade_backward(p, on_cpu); });
    const auto got = run([](const auto& p) { on_simt([&](const Exec& e) { cuda::shade_forward(p, e); }); },
        [](const auto& p) { on_simt([&](const Exec& e) { cuda::shade_backward(p, e); }); });
    const char* const names[] = {"sigma", "rgb", "normal", "d_h", "d_rgb_raw", "d_grad_h"};
    for (int k = 0; k < 6; ++k) close(names[k], got[k], want[k]);
}

// Rays of random length, some empty; `spare` rows and more before the first ray belong to none.
void check_composite(Random& random, int64_t rays, int longest, int64_t spare, const Count& count) {
    Buffer<int32_t> offsets(rays + 1);
    offsets[0] = int32_t(spare / 4);
    for (int64_t r = 0; r < rays; ++r)
        offsets[r + 1] = offsets[r] + int32_t(std::max<int64_t>(0, random.integer(-longest / 2, longest)));
    const int64_t n = offsets[rays] + spare;
    Buffer<float> sigma = random.floats(n, 0, longest > 32 ? 0.5f : 6);  // long rays: several spans
    for (float& v : sigma)
        if (random.integer(0, 2 * longest) == 0) v = 80;  // ends its ray
    const Buffer<float> rgb = random.floats(3 * n, 0, 1), normal = random.floats(3 * n, -1, 1);
    const Buffer<float> t = random.floats(n, 1, 3), d = random.floats(3 * rays, -1, 1);
    const Buffer<float> g3 = random.floats(3 * rays, -1, 1), g1 = random.floats(rays, -1, 1);
    const auto run = [&](auto forward, auto backward) {
        std::vector<Buffer<float>> out;
        for (const int64_t size : {3 * rays, rays, rays, 3 * rays, rays, n, 3 * n, 3 * n}) out.push_back(unset(size));
        const Composite<float> p{sigma.get(), rgb.get(), normal.get(), t.get(), offsets.get(), d.get(), count.get(),
            out[0].get(), out[1].get(), out[2].get(), out[3].get(), out[4].get(), rays, n, 0.1f};
        forward(p);
        backward(CompositeBackward<float>{
            p, g3.get(), g1.get(), g1.get(), g3.get(), g1.get(), out[5].get(), out[6].get(), out[7].get()});
        return out;
    };
    const auto want = run([](const auto& p) { cpu::composite_forward(p, on_cpu); },
        [](const auto& p) { cpu::composite_backward(p, on_cpu); });
    const auto got = run([](const auto& p) { on_simt([&](const Exec& e) { cuda::composite_forward(p, e); }); },
        [](const auto& p) { on_simt([&](const Exec& e) { cuda::composite_backward(p, e); }); });
    const char* const names[] = {"color", "opacity", "depth", "normals", "orient", "d_sigma", "d_rgb", "d_normal"};
    // d_sigma is a difference of numbers of the order of the step, which may cancel.
    for (int k = 0; k < 8; ++k) close(names[k], got[k], want[k], 2e-5, k == 5 ? 0.01 : 1e-30);
}

void check_adam(Random& random, int64_t n) {
    Buffer<float> param = random.floats(n, -1, 1), grad = random.floats(n, -1, 1), m = random.floats(n, -1, 1);
    Buffer<float> v = random.floats(n, 0, 1);
    for (Buffer<float>* values : {&param, &grad, &m, &v})
        for (float& x : *values)
            if (const float bad[] = {NAN, INFINITY, -INFINITY, 1e21f, -1.f}; random.integer(0, 40) == 0)
                x = bad[random.integer(0, 4)];
    const auto run = [&](auto launch) {
        std::vector<Buffer<float>> out{param, grad, m, v};
        Buffer<int64_t> bad(1, [] { return int64_t(5); });
        Buffer<float> factors(2);
        factors[0] = 0.01f, factors[1] = 1.5f;
        launch(Adam<float>{out[0].get(), out[1].get(), out[2].get(), out[3].get(), bad.get(), n, 0.9f, 0.99f, 1e-15f,
            1e-3f, factors.get()});
        out.push_back(Buffer<float>(1, [&] { return float(bad[0]); }));
        return out;
    };
    auto want = run([](const auto& p) { cpu::adam(p, on_cpu); });
    auto got = run([](const auto& p) { on_simt([&](const Exec& e) { cuda::adam(p, e); }); });
    for (int k = 0; k < 4; ++k)  // what stays bad would be no measure for the others
        for (int64_t i = 0; i < n; ++i) {
            float &a = got[k][i], &b = want[k][i];
            if (std::abs(b) < 10) continue;
            expect(a == b || (std::isnan(a) && std::isnan(b)) || std::abs(a - b) <= 2e-6 * std::abs(b), "bad numbers");
            a = b = 0;
        }
    const char* const names[] = {"param", "grad", "exp_avg", "exp_avg_sq", "nonfinite"};
    for (int k = 0; k < 5; ++k) close(names[k], got[k], want[k], 2e-6);
}

}  // namespace

void check_render(Random& random, bool thorough) {
    check_marches(random, thorough);
    for (const int resolution : {4, 12, 20})
        for (const int64_t listed : {0, 1, 999})
            for (const float level : {0.f, 0.2f, 1.f}) {
                now = "occupancy of " + std::to_string(resolution) + "^3 cells, " + std::to_string(listed) + " listed";
                check_occupancy(random, resolution, listed, level);
            }
    for (const int64_t n : {0, 1, 33, 1023}) {
        now = "n " + std::to_string(n);
        check_cell_points(random, n, n % 2), check_adam(random, n);
        for (const int64_t rows : {INT64_MAX, n / 2, n + 1, int64_t(-3)}) {
            const Count count = count_of(rows != INT64_MAX, rows);
            check_shade(random, n, count, n % 2);
            check_composite(random, n / 16, 20, n, count);
        }
        check_composite(random, n / 64, 200, 0, count_of(false, 0));
    }
}

}  // namespace check
