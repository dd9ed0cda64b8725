// The pieces of csrc/mma.h against plain arithmetic: rounding, splitting, the product of two matrices, the transpose.
// And the places of a warp's tile: every word has one, and eight lanes that are served at once use all banks.
#include "check.h"
#include "field/field_mma.cuh"

namespace check {
namespace {

using namespace dfn::cuda;

__global__ void pack_kernel(const float* pairs, uint32_t* packed, uint32_t* low) {
    const float x = pairs[2 * threadIdx.x], y = pairs[2 * threadIdx.x + 1];
    packed[threadIdx.x] = pack_bf16(x, y);
    const Split split = split_bf16(x, y);
    low[threadIdx.x] = split.high == packed[threadIdx.x] ? split.low : 0x7FFF7FFFu;
}

// d (16, 8) += a (16, 16) b (16, 8), rows one after the other.
__global__ void product_kernel(const float* a, const float* b, float* d) {
    const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    const auto pair = [&](int row, int column) { return pack_bf16(a[16 * row + column], a[16 * row + column + 1]); };
    const auto below = [&](int row) { return pack_bf16(b[8 * row + g], b[8 * row + 8 + g]); };
    const uint32_t left[4] = {pair(g, 2 * t), pair(g + 8, 2 * t), pair(g, 2 * t + 8), pair(g + 8, 2 * t + 8)};
    float sum[4];
    for (int k = 0; k < 4; ++k) sum[k] = d[8 * (g + k / 2 * 8) + 2 * t + k % 2];
    multiply_add(sum, left, below(2 * t), below(2 * t + 8));
    for (int k = 0; k < 4; ++k) d[8 * (g + k / 2 * 8) + 2 * t + k % 2] = sum[k];
}

__global__ void transpose_kernel(const uint32_t* in, uint32_t* out) { out[threadIdx.x] = transpose8(in[threadIdx.x]); }

// The nearest number of 8 bits, ties to even: from double, so by other means than mma.h.
double nearest(double v) {
    int exponent;
    const double fraction = std::frexp(v, &exponent);
    const int bits = std::min(8, exponent + 133);  // fewer below the smallest normal number, 2^-126
    return std::isfinite(v) ? std::ldexp(std::nearbyint(std::ldexp(fraction, bits)), exponent - bits) : v;
}

double value_of(uint32_t bf16) {
    const uint32_t bits = bf16 << 16;
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

template <class Kernel, class... Arguments>
void run(Kernel kernel, Arguments... arguments) {
    on_simt([&](const Exec& e) { launch("check", e, kernel, 1, kWarp, arguments...); });
}

void check_rounding(Random& random) {
    now = "bfloat16";
    Buffer<float> pairs(2 * kWarp, [&] { return std::ldexp(random.uniform(-1, 1), int(random.integer(-140, 120))); });
    const float special[] = {0, -0.0f, INFINITY, -INFINITY, 1 + 0x1p-8f, 1 + 0x3p-8f, -1 - 0x1.01p-8f, 0x1p-133f,
        0x1.8p-133f, 0x1p-134f, 3e38f, 1};
    std::copy(std::begin(special), std::end(special), pairs.begin());
    const Buffer<uint32_t> packed(kWarp), low(kWarp);
    run(pack_kernel, pairs.get(), packed.get(), low.get());
    for (int i = 0; i < 2 * int(kWarp); ++i) {
        const double exact = pairs[i], high = value_of(packed[i / 2] >> i % 2 * 16 & 0xFFFF);
        const double rest = value_of(low[i / 2] >> i % 2 * 16 & 0xFFFF);
        if (high != nearest(exact)) report("rounded", i, high, nearest(exact));
        const double size = std::abs(exact);
        if (size > 1e-30 && std::isfinite(high) && std::abs(exact - high - rest) > 0x1p-17 * size)
            report("high + low", i, high + rest, exact);
    }
    pairs[0] = pairs[1] = NAN;
    run(pack_kernel, pairs.get(), packed.get(), low.get());
    expect(packed[0] == 0x7FFF7FFFu, "NaN stays NaN");
}

void check_product(Random& random, bool whole_numbers) {
    now = whole_numbers ? "product of whole numbers" : "product";
    const auto next = [&] { return whole_numbers ? float(random.integer(-50, 50)) : random.uniform(-1, 1); };
    const Buffer<float> a(16 * 16, next), b(16 * 8, next), start(16 * 8, next), d(start);
    run(product_kernel, a.get(), b.get(), d.get());
    comparisons += 1;
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 8; ++j) {
            double want = start[8 * i + j], size = std::abs(want);
            for (int k = 0; k < 16; ++k) {
                const double product = nearest(a[16 * i + k]) * nearest(b[8 * k + j]);
                want += product, size += std::abs(product);
            }
            const double error = std::abs(d[8 * i + j] - want);
            if (!(error <= (whole_numbers ? 0 : 16 * 0x1p-24 * size))) report("d", 8 * i + j, d[8 * i + j], want);
        }
}

void check_transpose() {
    now = "transpose";
    Buffer<uint32_t> in(kWarp), out(kWarp), want(kWarp);
    const auto element = [](int row, int column) { return uint32_t(1000 + 8 * row + column); };
    for (int lane = 0; lane < int(kWarp); ++lane) {
        const int g = lane / 4, t = lane % 4;
        in[lane] = element(g, 2 * t) | element(g, 2 * t + 1) << 16;
        want[lane] = element(2 * t, g) | element(2 * t + 1, g) << 16;
    }
    run(transpose_kernel, in.get(), out.get());
    equal("transposed", out, want);
}

template <int kInputs>
void check_places() {
    now = "tile of " + std::to_string(kInputs) + " inputs";
    constexpr int kBlocks = kInputs / 4;
    std::vector<int> used(32 * kBlocks);
    for (int sample = 0; sample < 32; ++sample)
        for (int c = 0; c < kBlocks; ++c) used.at(block_at<kInputs>(sample, c)) += 1;
    for (const int times : used) expect(times == 1, "every block has a place of its own");
    const auto distinct = [](auto sample, auto c) {  // over eight lanes: 128 bytes at once, a block is four banks
        unsigned banks = 0;
        for (int lane = 0; lane < 8; ++lane) banks |= 1u << block_at<kInputs>(sample(lane), c(lane)) % 8;
        return banks == 0xFF;
    };
    for (int begin = 0; begin < 32; begin += 8)
        for (int k = 0; k < kBlocks; ++k) {
            expect(distinct([&](int lane) { return begin + lane; }, [&](int) { return k; }), "a lane a sample");
            if (k % 4) continue;
            for (int row = 0; row < 4; ++row)
                expect(distinct([&](int lane) { return (begin + lane) / 4 * 4 + row; },
                           [&](int lane) { return k + lane % 4; }),
                    "fragments");
        }
}

}  // namespace

void check_mma(Random& random) {
    check_rounding(random), check_product(random, false), check_product(random, true), check_transpose();
    check_places<32>(), check_places<16>();
}

}  // namespace check
