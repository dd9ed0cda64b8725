// More than 2^31 elements: a table and sample buffers whose pages exist only where they are touched.
#include <sys/mman.h>

#include "check.h"
#include "composite/composite.h"
#include "hashgrid/hashgrid.h"

namespace check {
namespace {

using namespace dfn;

// n zeros, of which only touched pages take memory.
class Sparse {
public:
    explicit Sparse(int64_t n) : bytes_(size_t(n) * sizeof(float)) {
        void* const memory =
            mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        data_ = memory == MAP_FAILED ? nullptr : static_cast<float*>(memory);
    }
    ~Sparse() {
        if (data_) munmap(data_, bytes_);
    }
    Sparse(const Sparse&) = delete;
    float* get() const { return data_; }

private:
    size_t bytes_;
    float* data_;
};

void no_space() { std::printf("%s: left out, no address space\n", now.c_str()); }

// 2^32 + 2^31 elements of table: 24 hashed levels of 2^26 rows of 4.
void check_large_table(Random& random) {
    now = "a table of 2^32 + 2^31 elements";
    constexpr int64_t kRows = int64_t(1) << 26, n = 9;
    HashGrid<float> p{};
    p.grid.levels = 24, p.grid.features = 4;
    for (int level = 0; level < p.grid.levels; ++level) {
        p.grid.scale[level] = float(5000 + 300 * level), p.grid.resolution[level] = uint32_t(5001 + 300 * level);
        p.grid.rows[level] = uint32_t(kRows), p.grid.offset[level] = level * kRows;
    }
    const int width = p.grid.levels * p.grid.features;
    const Sparse table(kRows * width), want_table(kRows * width), got_table(kRows * width);
    if (!table.get() || !want_table.get() || !got_table.get()) return no_space();
    const Buffer<float> x = random.floats(3 * n, 0, 1), grad_y = random.floats(n * width, -1, 1);
    const Buffer<float> want = unset(n * width), got = unset(n * width);
    std::vector<int64_t> touched;
    for (int64_t i = 0; i < n; ++i)
        for (int level = 0; level < p.grid.levels; ++level) {
            const Cell<float> cell = find_cell(p.grid, level, load3(x.get(), i));
            for (const int64_t entry : cell.entry)
                for (int f = 0; f < p.grid.features; ++f) {
                    expect(entry / 4 / kRows == level && entry % 4 == 0, "an entry lies in the rows of its level");
                    table.get()[entry + f] = random.uniform(-1, 1), touched.push_back(entry + f);
                }
        }
    p.x = x.get(), p.table = table.get(), p.grad_y = grad_y.get(), p.n = n;
    p.y = want.get(), p.grad_table = want_table.get();
    cpu::hashgrid_forward(p, on_cpu), cpu::hashgrid_grad_table(p, on_cpu);
    p.y = got.get(), p.grad_table = got_table.get();
    on_simt([&](const Exec& e) { cuda::hashgrid_forward(p, e), cuda::hashgrid_grad_table(p, e); });
    close("y", got, want);
    Buffer<float> want_touched(int64_t(touched.size())), got_touched(int64_t(touched.size()));
    for (size_t k = 0; k < touched.size(); ++k)
        want_touched[k] = want_table.get()[touched[k]], got_touched[k] = got_table.get()[touched[k]];
    close("grad_table", got_touched, want_touched);
    expect(touched.back() > (int64_t(1) << 32), "the last entry is far behind 2^31");
}

// Two rays in the last rows that int32 offsets can name: rows near 2^31, components near 3 * 2^31.
void check_last_rows(Random& random) {
    now = "the last of 2^31 - 1 rows";
    constexpr int64_t n = 0x7FFFFFFF;
    const Sparse sigma(n), rgb(3 * n), normal(3 * n), t(n);
    if (!sigma.get() || !rgb.get() || !normal.get() || !t.get()) return no_space();
    for (int64_t i = n - 7; i < n; ++i) {
        sigma.get()[i] = random.uniform(1, 3), t.get()[i] = random.uniform(1, 2);
        for (int64_t k = 3 * i; k < 3 * i + 3; ++k)
            rgb.get()[k] = random.uniform(0, 1), normal.get()[k] = random.uniform(-1, 1);
    }
    const Buffer<float> d = random.floats(6, -1, 1);
    Buffer<int32_t> offsets(3);
    offsets[0] = int32_t(n - 7), offsets[1] = int32_t(n - 3), offsets[2] = int32_t(n);
    const auto run = [&](auto launch) {
        std::vector<Buffer<float>> out;
        for (const int64_t size : {6, 2, 2, 6, 2}) out.push_back(unset(size));
        launch(Composite<float>{sigma.get(), rgb.get(), normal.get(), t.get(), offsets.get(), d.get(), nullptr,
            out[0].get(), out[1].get(), out[2].get(), out[3].get(), out[4].get(), 2, n, 0.1f});
        return out;
    };
    const auto want = run([](const auto& p) { cpu::composite_forward(p, on_cpu); });
    const auto got = run([](const auto& p) { on_simt([&](const Exec& e) { cuda::composite_forward(p, e); }); });
    expect(want[1][0] > 0.1f && want[1][1] > 0.1f, "the rays see their samples");
    for (int k = 0; k < 5; ++k) close("composite", got[k], want[k]);
}

}  // namespace

void check_sizes(Random& random) {
    check_large_table(random);
    check_last_rows(random);
}

}  // namespace check
