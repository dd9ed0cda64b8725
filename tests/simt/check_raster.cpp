// Rasterise, interpolate and antialias: CUDA kernels on the SIMT machine against the CPU launchers.
#include "check.h"
#include "raster/antialias.h"
#include "raster/interpolate.h"
#include "raster/rasterise.h"

namespace check {
namespace {

using namespace dfn;

struct Soup {
    Buffer<float> position;
    Buffer<int32_t> faces;
    int64_t views, vertices, triangles;
    int height, width;

    Mesh<float> mesh(const Buffer<float>& screen) const {
        return {position.get(), faces.get(), screen.get(), views, vertices, triangles, height, width};
    }
};

// Seen by a camera among them: some behind it, some across the near plane, a few that cover everything, some that are
// no triangles. Every second one is about as large as a pixel.
Soup random_soup(Random& random, int64_t views, int64_t triangles, int height, int width) {
    Soup s{Buffer<float>(views * triangles * 12), Buffer<int32_t>(3 * triangles), views, 3 * triangles, triangles,
        height, width};
    for (int64_t t = 0; t < views * triangles; ++t) {
        const float size = t % 2 ? 0.1f : random.uniform(0.3f, t % 7 ? 1 : 20);
        const float x = random.uniform(-2, 2), y = random.uniform(-2, 2), z = random.uniform(-4, 0.5f);
        for (int k = 0; k < 3; ++k) {
            float* p = s.position.get() + 12 * t + 4 * k;
            const float depth = z + size * random.uniform(-1, 1);
            p[0] = 1.2f * (x + size * random.uniform(-1, 1));
            p[1] = 1.2f * (y + size * random.uniform(-1, 1));
            p[2] = -1.5f * depth - 1;
            p[3] = -depth;
            if (random.integer(0, 99) == 0) p[random.integer(0, 3)] = t % 3 ? NAN : INFINITY;
        }
    }
    for (int64_t i = 0; i < 3 * triangles; ++i)
        s.faces[i] = int32_t(random.integer(0, 20) ? i : random.integer(-1, s.vertices));
    return s;
}

struct Drawn {
    Buffer<uint64_t> keys;
    Buffer<float> screen, depth, barycentric;
    Buffer<int32_t> face;
};

template <class Run>
Drawn draw(const Soup& s, bool cull, Run run) {
    const int64_t pixels = s.views * s.height * s.width;
    Drawn d{
        Buffer<uint64_t>(pixels), unset(s.position.size()), unset(pixels), unset(3 * pixels), Buffer<int32_t>(pixels)};
    run(Rasterise<float>{s.mesh(d.screen), d.keys.get(), d.face.get(), d.depth.get(), d.barycentric.get(), cull});
    return d;
}

void check_backward(Random& random, const Soup& s, const Drawn& d) {
    const int64_t pixels = s.views * s.height * s.width;
    const Buffer<float> d_depth = random.floats(pixels, -1, 1), d_b = random.floats(3 * pixels, -1, 1);
    const Buffer<float> want = unset(s.position.size()), got = unset(s.position.size());
    RasteriseBackward<float> p{s.mesh(d.screen), d.face.get(), d_depth.get(), d_b.get(), want.get()};
    cpu::rasterise_backward(p, on_cpu);
    p.d_position = got.get();
    on_simt([&](const Exec& e) { cuda::rasterise_backward(p, e); });
    close("d_position", got, want, 1e-4);
}

void check_interpolate(Random& random, const Soup& s, const Drawn& d, bool shared, bool wanted) {
    const int64_t pixels = s.views * s.height * s.width, channels = 5, copies = shared ? 1 : s.views;
    const Buffer<float> attribute = random.floats(copies * s.vertices * channels, -1, 1);
    const Buffer<float> d_out = random.floats(pixels * channels, -1, 1);
    const auto run = [&](auto forward, auto backward) {
        std::vector<Buffer<float>> out{unset(pixels * channels), unset(attribute.size()), unset(3 * pixels)};
        const Interpolate<float> p{attribute.get(), s.faces.get(), d.face.get(), d.barycentric.get(), out[0].get(),
            s.views, s.vertices, s.triangles, s.height, s.width, int(channels), shared};
        forward(p);
        backward(InterpolateBackward<float>{p, d_out.get(), wanted ? out[1].get() : nullptr, out[2].get()});
        if (!wanted) out[1] = Buffer<float>(0);
        return out;
    };
    const auto want = run([](const auto& p) { cpu::interpolate(p, on_cpu); },
        [](const auto& p) { cpu::interpolate_backward(p, on_cpu); });
    const auto got = run([](const auto& p) { on_simt([&](const Exec& e) { cuda::interpolate(p, e); }); },
        [](const auto& p) { on_simt([&](const Exec& e) { cuda::interpolate_backward(p, e); }); });
    const char* const names[] = {"interpolated", "d_attribute", "d_barycentric"};
    for (int k = 0; k < 3; ++k) close(names[k], got[k], want[k]);
}

void check_antialias(Random& random, const Soup& s, const Drawn& d, int samples) {
    const int64_t pixels = s.views * s.height * s.width, channels = 2;
    const Buffer<float> image = random.floats(pixels * channels, 0, 1);
    const Buffer<float> d_out = random.floats(pixels * channels / (samples * samples), -1, 1);
    const auto run = [&](auto forward, auto backward) {
        std::vector<Buffer<float>> out{unset(d_out.size()), unset(image.size()), unset(s.position.size())};
        forward(Antialias<float>{image.get(), out[0].get(), s.views, s.height, s.width, int(channels), samples});
        const Buffer<float> screen = unset(s.position.size());
        AntialiasBackward<float> p{s.mesh(screen), d.face.get(), image.get(), d_out.get(), out[1].get(), out[2].get(),
            int(channels), samples, s.height / samples, s.width / samples};
        backward(p);
        return out;
    };
    const auto want = run(
        [](const auto& p) { cpu::antialias(p, on_cpu); }, [](const auto& p) { cpu::antialias_backward(p, on_cpu); });
    const auto got = run([](const auto& p) { on_simt([&](const Exec& e) { cuda::antialias(p, e); }); },
        [](const auto& p) { on_simt([&](const Exec& e) { cuda::antialias_backward(p, e); }); });
    const char* const names[] = {"averaged", "d_image", "d_position"};
    for (int k = 0; k < 3; ++k) close(names[k], got[k], want[k], 1e-4);
}

}  // namespace

void check_raster(Random& random, bool thorough) {
    for (const int64_t views : {0, 1, 3})
        for (const int64_t triangles : {0, 1, 40, 300}) {
            if (!thorough && views * triangles > 300) continue;
            const int height = 4 * int(random.integer(1, 6)), width = 4 * int(random.integer(1, 10));
            now = "raster of " + std::to_string(views) + " views, " + std::to_string(triangles) + " triangles";
            const Soup s = random_soup(random, views, triangles, height, width);
            const bool cull = triangles == 40;
            const Drawn want = draw(s, cull, [](const auto& p) { cpu::rasterise(p, on_cpu); });
            const Drawn got =
                draw(s, cull, [](const auto& p) { on_simt([&](const Exec& e) { cuda::rasterise(p, e); }); });
            equal("face", got.face, want.face), equal("depth", got.depth, want.depth);
            equal("barycentric", got.barycentric, want.barycentric);
            check_backward(random, s, want);
            for (const int k : {0, 1, 2}) check_interpolate(random, s, want, k == 1, k != 2);
            for (const int samples : {1, 2, 4}) check_antialias(random, s, want, samples);
        }
}

}  // namespace check
