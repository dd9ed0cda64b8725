// Hash grid and field: CUDA kernels on the SIMT machine against the CPU launchers.
#include <utility>

#include "check.h"
#include "field/field.h"

namespace check {
namespace {

using namespace dfn;

struct Shape {
    int levels, features, log2_table, base, finest;
    bool smooth;
    int hidden;
};

// ops/hashgrid.py's GridLayout.
GridLayout layout_of(const Shape& s) {
    GridLayout g{};
    g.levels = s.levels, g.features = s.features, g.smooth = s.smooth;
    const double growth = std::log(double(s.finest) / s.base) / std::max(1, s.levels - 1);
    int64_t row = 0;
    for (int level = 0; level < s.levels; ++level) {
        g.scale[level] = float(s.base * std::exp(level * growth) - 1.0);
        const int64_t r = int64_t(std::ceil(g.scale[level])) + 1;
        g.resolution[level] = uint32_t(r), g.offset[level] = row;
        g.rows[level] = uint32_t(std::min<int64_t>((r * r * r + 7) / 8 * 8, int64_t(1) << s.log2_table));
        row += g.rows[level];
    }
    g.offset[s.levels] = row;
    return g;
}

int64_t entries(const Shape& s) {
    const GridLayout g = layout_of(s);
    return (g.offset[s.levels - 1] + g.rows[s.levels - 1]) * s.features;
}

// Points of the unit cube, some of them outside, on its faces, or not numbers.
Buffer<float> unit_points(Random& random, int64_t n) {
    Buffer<float> x = random.floats(3 * n, 0, 1);
    const float special[] = {0, 1, 0.5f, -0.25f, 1.5f, INFINITY, -INFINITY, NAN};
    for (int64_t i = 0; i < 3 * n; ++i)
        if (random.integer(0, 15) == 0) x[i] = special[random.integer(0, 7)];
    return x;
}

struct Encoded {
    Buffer<float> y, grad_x, grad_grad_y, grad_table, grad_table2, hessian;
};

template <class Run>
Encoded run_hashgrid(HashGrid<float> p, const Buffer<float>& table_gradient, int64_t n, int width, Run run) {
    Encoded out{unset(n * width), unset(3 * n), unset(n * width), table_gradient, table_gradient, unset(3 * n)};
    p.y = out.y.get(), p.grad_x = out.grad_x.get(), p.grad_grad_y = out.grad_grad_y.get();
    p.grad_table = out.grad_table.get();
    HashGrid<float> second = p;
    second.grad_table = out.grad_table2.get(), second.grad_x = out.hessian.get();
    run(p, second);
    return out;
}

void check_hashgrid(Random& random, const Shape& s, int64_t n, const Count& count) {
    const int width = s.levels * s.features;
    const Buffer<float> x = unit_points(random, n), table = random.floats(entries(s), -1, 1);
    const Buffer<float> grad_y = random.floats(n * width, -1, 1), v = random.floats(3 * n, -1, 1);
    const Buffer<float> table_gradient = random.floats(table.size(), -1, 1);
    HashGrid<float> p{};
    p.grid = layout_of(s), p.x = x.get(), p.table = table.get(), p.grad_y = grad_y.get(), p.grad_grad_x = v.get();
    p.n = n, p.count = count.get();
    const Encoded want = run_hashgrid(p, table_gradient, n, width, [](auto& first, auto& second) {
        cpu::hashgrid_forward(first, on_cpu), cpu::hashgrid_grad_table(first, on_cpu);
        cpu::hashgrid_grad_x(first, on_cpu), cpu::hashgrid_grad_x_backward(second, on_cpu);
    });
    const Encoded got = run_hashgrid(p, table_gradient, n, width, [](auto& first, auto& second) {
        on_simt([&](const Exec& e) {
            cuda::hashgrid_forward(first, e), cuda::hashgrid_grad_table(first, e);
            cuda::hashgrid_grad_x(first, e), cuda::hashgrid_grad_x_backward(second, e);
        });
    });
    close("y", got.y, want.y), close("grad_table", got.grad_table, want.grad_table);
    close("grad_x", got.grad_x, want.grad_x), close("grad_grad_y", got.grad_grad_y, want.grad_grad_y);
    close("grad_table of the tangent", got.grad_table2, want.grad_table2), close("hessian", got.hessian, want.hessian);
}

// Neighbours in one cell add once, points in cells of their own each for themselves.
void check_merging(Random& random) {
    now = "merging";
    constexpr int64_t n = 64, kPerPoint = 8 * 2;
    const Shape fine{1, 2, 20, 100, 100, false, 1};
    const Buffer<float> apart = random.floats(3 * n, 0, 1), grad_y = random.floats(2 * n, -1, 1);
    const Buffer<float> together(3 * n, [] { return 0.4f; }), gradient(entries(fine));
    HashGrid<float> p{};
    p.grid = layout_of(fine), p.grad_y = grad_y.get(), p.grad_table = gradient.get(), p.n = n;
    for (const auto& [x, points] : {std::pair(&together, n / 32), std::pair(&apart, n)}) {
        p.x = x->get();
        const int64_t before = simt::atomics;
        on_simt([&](const Exec& e) { cuda::hashgrid_grad_table(p, e); });
        expect(simt::atomics - before == points * kPerPoint, "as many atomics as runs of points in one cell");
    }
}

template <class T>
struct Network {
    Buffer<T> table, W1, b1, W2, b2, weights;
    FieldModel<T> model{};

    template <class From>
    explicit Network(const Network<From>& o)
        : Network(o.model.grid, o.model.level_weight, o.model.hidden, copy(o.table), copy(o.W1), copy(o.b1), copy(o.W2),
              copy(o.b2), {o.model.blob.kind, T(o.model.blob.strength), T(o.model.blob.radius)}) {}
    template <class Weight>
    Network(const GridLayout& grid, const Weight* weights_, int hidden, Buffer<T> table_, Buffer<T> W1_, Buffer<T> b1_,
        Buffer<T> W2_, Buffer<T> b2_, Blob<T> blob)
        : table(std::move(table_)),
          W1(std::move(W1_)),
          b1(std::move(b1_)),
          W2(std::move(W2_)),
          b2(std::move(b2_)),
          weights(grid.levels) {
        model.grid = grid, model.hidden = hidden, model.bound = T(1.5), model.blob = blob;
        for (int level = 0; level < grid.levels; ++level) weights[level] = T(weights_[level]);
        model.level_weight = weights.get();
        model.table = table.get(), model.W1 = W1.get(), model.b1 = b1.get(), model.W2 = W2.get(), model.b2 = b2.get();
    }

private:
    template <class From>
    static Buffer<T> copy(const Buffer<From>& from) {
        Buffer<T> to(from.size());
        std::copy(from.begin(), from.end(), to.begin());
        return to;
    }
};

Network<float> random_network(Random& random, const Shape& s, int blob) {
    const int width = s.levels * s.features;
    float weights[kMaxLevels];
    for (int i = 0; i < s.levels; ++i) weights[i] = i % 3 == 1 ? 0.f : random.uniform(0.5f, 1);
    if (s.levels > 8)
        for (int i = 0; i < s.levels; ++i) weights[i] = i == s.levels - 1 ? 0.f : 1.f;
    return Network<float>(layout_of(s), weights, s.hidden, random.floats(entries(s), -1, 1),
        random.floats(s.hidden * width, -1, 1), random.floats(s.hidden, -1, 1), random.floats(4 * s.hidden, -1, 1),
        random.floats(4, -1, 1), {blob, 2.f, 0.4f});
}

// Whether all hidden units are far enough from their kink for rounding not to matter.
bool smooth_at(const FieldModel<double>& m, const float* x, double margin) {
    double e[kMaxInputs];
    encode_sample(m, to_unit_cube(Vec3<double>{x[0], x[1], x[2]}, m.bound), Vec3<double>{}, e, (double*)nullptr, 1);
    for (int j = 0; j < m.hidden; ++j)
        if (std::abs(unit_product(m, j, e, 1) + m.b1[j]) < margin) return false;
    return true;
}

// In runs along a line, as the march leaves them, so that neighbours share cells.
Buffer<float> world_points(Random& random, const Network<float>& network, int64_t n, double margin = 1e-4) {
    const Network<double> exact(network);
    Buffer<float> x(3 * n);
    for (int64_t i = 0; i < n; ++i) {
        do {
            const bool fresh = i == 0 || random.integer(0, 40) == 0;
            for (int axis = 0; axis < 3; ++axis)
                x[3 * i + axis] =
                    fresh ? random.uniform(-1.6f, 1.6f) : x[3 * i - 3 + axis] + random.uniform(-.03f, .05f);
        } while (!smooth_at(exact.model, x.get() + 3 * i, margin));
    }
    return x;
}

// Of products on tensor cores, relative to the largest value: 2^-17 from each factor, 2^-16 from the product left out.
constexpr double kTensorCores = 1e-4;

struct FieldResult {
    Buffer<float> h, rgb_raw, grad_h, density, grad_table, grad_weights;
};

template <class Run>
FieldResult run_field(
    Field<float> p, const Buffer<float>& table_gradient, const Buffer<float>& weight_gradient, Run run) {
    FieldResult out{unset(p.n), unset(3 * p.n), unset(3 * p.n), unset(p.n), table_gradient, weight_gradient};
    p.h = out.h.get(), p.rgb_raw = out.rgb_raw.get(), p.grad_h = out.grad_h.get();
    p.grad_table = out.grad_table.get(), p.grad_weights = out.grad_weights.get();
    Field<float> density = p;
    density.h = out.density.get(), density.rgb_raw = density.grad_h = nullptr;
    run(p, density);
    return out;
}

// The CPU's results for `reference` against the simulated device's for `p`.
void compare_field(const Field<float>& reference, const Field<float>& p, const Buffer<float>& table_gradient,
    const Buffer<float>& weight_gradient, double tolerance = 2e-5) {
    const FieldResult want = run_field(reference, table_gradient, weight_gradient, [](auto& full, auto& density) {
        cpu::field_forward(full, on_cpu), cpu::field_forward(density, on_cpu), cpu::field_backward(full, on_cpu);
    });
    const FieldResult got = run_field(p, table_gradient, weight_gradient, [](auto& full, auto& density) {
        on_simt([&](const Exec& e) {
            cuda::field_forward(full, e), cuda::field_forward(density, e), cuda::field_backward(full, e);
        });
    });
    close("h", got.h, want.h, tolerance), close("rgb_raw", got.rgb_raw, want.rgb_raw, tolerance);
    close("grad_h", got.grad_h, want.grad_h, tolerance), close("density", got.density, want.density, tolerance);
    close("grad_table", got.grad_table, want.grad_table, tolerance);
    close("grad_weights", got.grad_weights, want.grad_weights, tolerance);
}

void check_field_op(
    Random& random, const Shape& s, int64_t n, const Count& count, int blob, bool tensor_cores = false) {
    const Network<float> network = random_network(random, s, blob);
    const Buffer<float> x = world_points(random, network, n, tensor_cores ? 1e-3 : 1e-4);
    const Buffer<float> d_h = random.floats(n, -1, 1), d_rgb = random.floats(3 * n, -1, 1);
    const Buffer<float> d_grad = random.floats(3 * n, -1, 1);
    const Buffer<float> table_gradient = random.floats(network.table.size(), -1, 1);
    const int64_t weights = network.W1.size() + network.b1.size() + network.W2.size() + 4;
    const Buffer<float> weight_gradient = random.floats(weights, -1, 1);
    Field<float> p{};
    p.model = network.model, p.x = x.get(), p.d_h = d_h.get(), p.d_rgb_raw = d_rgb.get(), p.d_grad_h = d_grad.get();
    p.n = n, p.count = count.get();
    Field<float> device = p;
    device.model.tensor_cores = tensor_cores;
    compare_field(p, device, table_gradient, weight_gradient, tensor_cores ? kTensorCores : 2e-5);
}

// Products on tensor cores where they are asked for, and the others' where the device has too little shared memory.
void check_selection(Random& random) {
    now = "selection";
    constexpr int64_t n = 64;
    const Network<float> network = random_network(random, {16, 2, 7, 4, 64, false, 64}, 0);
    const Buffer<float> x = random.floats(3 * n, -1, 1), d = random.floats(3 * n, -1, 1);
    const int64_t weights = network.W1.size() + network.b1.size() + network.W2.size() + 4;
    const Buffer<float> table_gradient(network.table.size()), weight_gradient(weights);
    Field<float> p{};
    p.model = network.model, p.x = x.get(), p.n = n, p.d_h = p.d_rgb_raw = p.d_grad_h = d.get();
    const auto run = [&](bool tensor_cores, size_t max_shared) {
        const size_t before = std::exchange(simt::settings.max_shared, max_shared);
        p.model.tensor_cores = tensor_cores;
        FieldResult result = run_field(p, table_gradient, weight_gradient, [](auto& full, auto&) {
            on_simt([&](const Exec& e) { cuda::field_forward(full, e), cuda::field_backward(full, e); });
        });
        simt::settings.max_shared = before;
        return result;
    };
    const auto same = [](const Buffer<float>& a, const Buffer<float>& b) {
        return !std::memcmp(a.get(), b.get(), a.size() * sizeof(float));
    };
    const FieldResult plain = run(false, 227 << 10), fast = run(true, 227 << 10), short_of = run(true, 64 << 10);
    expect(!same(plain.h, fast.h) && !same(plain.grad_weights, fast.grad_weights), "rounding differs");
    expect(same(fast.h, short_of.h) && same(plain.grad_weights, short_of.grad_weights), "64 KB: forward only");
}

// Of size 2^-14 to almost 1, and some below the smallest normal number: bits, and their value.
std::pair<Buffer<uint16_t>, Buffer<float>> random_halves(Random& random, int64_t n) {
    Buffer<uint16_t> bits(n);
    Buffer<float> values(n);
    for (int64_t i = 0; i < n; ++i) {
        const int64_t exponent = random.integer(0, 14), mantissa = random.integer(0, 1023), sign = random.integer(0, 1);
        bits[i] = uint16_t(sign << 15 | exponent << 10 | mantissa);
        const float size =
            exponent ? std::ldexp(1 + float(mantissa) / 1024, int(exponent) - 15) : std::ldexp(float(mantissa), -24);
        values[i] = sign ? -size : size;
    }
    return {std::move(bits), std::move(values)};
}

// With a shadow the table itself is not read, and the gradients are those of a table with the shadow's values.
void check_shadow(Random& random, const Shape& s, int64_t n) {
    now = "shadow of " + std::to_string(s.levels) + " levels, n " + std::to_string(n);
    Network<float> network = random_network(random, s, 1);
    const auto halves = random_halves(random, network.table.size());
    std::copy(halves.second.begin(), halves.second.end(), network.table.begin());
    const Buffer<float> x = world_points(random, network, n, 1e-3), d = random.floats(3 * n, -1, 1);
    const int64_t weights = network.W1.size() + network.b1.size() + network.W2.size() + 4;
    const Buffer<float> table_gradient = random.floats(network.table.size(), -1, 1), weight_gradient(weights);
    Field<float> plain{};
    plain.model = network.model, plain.x = x.get(), plain.n = n;
    plain.d_h = plain.d_rgb_raw = plain.d_grad_h = d.get();
    const Buffer<float> unread = unset(network.table.size());
    Field<float> shadowed = plain;
    shadowed.model.table = unread.get(), shadowed.model.shadow = halves.first.get();
    compare_field(plain, shadowed, table_gradient, weight_gradient);
    shadowed.model.tensor_cores = true;
    compare_field(plain, shadowed, table_gradient, weight_gradient, kTensorCores);
}

// Blocks beyond the live samples add nothing to the weights' gradient: with 3 of 4000 rows live, one block does.
void check_idle_blocks(Random& random) {
    now = "idle blocks";
    for (const Shape& s :
        {Shape{16, 2, 7, 4, 64, false, 21}, Shape{8, 2, 7, 4, 64, true, 32}, Shape{5, 4, 8, 4, 40, false, 33}}) {
        const Network<float> network = random_network(random, s, 0);
        const int64_t n = 4000, weights = network.W1.size() + network.b1.size() + network.W2.size() + 4;
        const Buffer<float> x = random.floats(3 * n, -1, 1), d = random.floats(3 * n, -1, 1);
        const Buffer<float> table_gradient(network.table.size()), weight_gradient(weights);
        const Count count = count_of(true, 3);
        Field<float> p{};
        p.model = network.model, p.x = x.get(), p.d_h = p.d_rgb_raw = p.d_grad_h = d.get();
        p.n = n, p.count = count.get(), p.grad_table = table_gradient.get(), p.grad_weights = weight_gradient.get();
        for (const bool tensor_cores : {false, true}) {
            p.model.tensor_cores = tensor_cores;
            const int64_t before = simt::atomics, per_sample = s.levels * s.features * 8 + 4;  // corners, biases
            on_simt([&](const Exec& e) { cuda::field_backward(p, e); });
            expect(simt::atomics - before <= weights + 3 * per_sample + 12, "one block adds its sums");
        }
    }
}

std::string name_of(const Shape& s, int64_t n, const Count& count) {
    return "levels " + std::to_string(s.levels) + " features " + std::to_string(s.features) + " hidden " +
           std::to_string(s.hidden) + " n " + std::to_string(n) +
           (count.given ? " count " + std::to_string(count.value[0]) : "");
}

void check_tensor_cores(Random& random, bool thorough) {
    check_selection(random);
    const Shape shapes[] = {{16, 2, 12, 16, 2048, false, 64}, {8, 2, 11, 8, 256, true, 32}, {16, 2, 7, 4, 64, true, 21},
        {8, 2, 7, 4, 64, false, 128}, {16, 2, 7, 4, 64, false, 128}};
    int turn = 0;
    for (const Shape& s : shapes) {
        for (const int64_t n : {0, 1, 31, 32, 33, 200, 1000}) {
            if (!thorough && n > 300) continue;
            for (const Count& count : {count_of(false, 0), count_of(true, n - n / 3), count_of(true, -1)}) {
                if (count.given && n != 200) continue;
                now = "tensor cores, " + name_of(s, n, count);
                check_field_op(random, s, n, count, turn++ % 3, true);
            }
        }
    }
}

// A device whose blocks have too little shared memory (sm_75) for the widest network's backward.
void check_small_device(Random& random) {
    now = "small device";
    const size_t before = std::exchange(simt::settings.max_shared, 64 << 10);
    check_field_op(random, {16, 2, 7, 4, 64, false, 128}, 200, count_of(false, 0), 0);
    simt::settings.max_shared = before;
}

}  // namespace

void check_field(Random& random, bool thorough) {
    const Shape shapes[] = {
        {16, 2, 12, 16, 2048, false, 64},  // the default, but for the size of its table
        {16, 2, 10, 4, 512, true, 21},
        {16, 2, 7, 4, 64, false, 128},
        {8, 2, 11, 8, 256, true, 32},  // preset fast's, but for the size of its table
        {8, 2, 7, 4, 64, false, 21},
        {3, 2, 9, 3, 17, true, 17},
        {1, 1, 6, 2, 2, false, 1},
        {5, 4, 8, 4, 40, false, 33},
        {8, 8, 7, 4, 40, false, 128},
    };
    const int64_t sizes[] = {0, 1, 31, 33, 257, 700};
    int turn = 0;
    check_merging(random), check_idle_blocks(random), check_tensor_cores(random, thorough);
    check_small_device(random);
    for (const int64_t n : {1, 33, 200})
        check_shadow(random, {16, 2, 8, 8, 64, false, 33}, n), check_shadow(random, {8, 2, 8, 8, 64, true, 32}, n);
    for (const Shape& s : shapes) {
        for (const int64_t n : sizes) {
            if (!thorough && n > 300) continue;
            const Count counts[] = {count_of(false, 0), count_of(true, n / 2), count_of(true, 0), count_of(true, n + 5),
                count_of(true, -1)};
            const Count& count = counts[turn++ % 5];
            now = name_of(s, n, count);
            check_hashgrid(random, s, n, count);
            check_field_op(random, s, n, count, turn % 3);
        }
    }
}

}  // namespace check
