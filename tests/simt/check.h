// What the comparisons of CUDA kernels on the SIMT machine with the CPU launchers share.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/launch.h"
#include "simt.h"

namespace check {

using dfn::Exec;

inline int failures = 0, comparisons = 0;
inline std::string now;  // the case that runs, for messages

// n values on the heap, in an allocation of exactly their size: AddressSanitizer guards both ends.
template <class T>
class Buffer {
public:
    explicit Buffer(int64_t n = 0) : size_(n), data_(new T[n]()) {}
    Buffer(int64_t n, const std::function<T()>& next) : Buffer(n) {
        for (T& v : *this) v = next();
    }
    Buffer(const Buffer& o) : Buffer(o.size_) { std::copy(o.begin(), o.end(), begin()); }
    Buffer(Buffer&&) = default;
    Buffer& operator=(Buffer&&) = default;
    T* get() const { return data_.get(); }
    T* begin() const { return get(); }
    T* end() const { return get() + size_; }
    T& operator[](int64_t i) const { return data_[i]; }
    int64_t size() const { return size_; }

private:
    int64_t size_;
    std::unique_ptr<T[]> data_;
};

class Random {
public:
    explicit Random(uint64_t seed) : engine_(seed) {}
    float uniform(float low, float high) { return low + (high - low) * float(engine_() >> 40) * 0x1p-24f; }
    int64_t integer(int64_t low, int64_t high) { return low + int64_t(engine_() % uint64_t(high - low + 1)); }
    Buffer<float> floats(int64_t n, float low, float high) {
        return Buffer<float>(n, [&] { return uniform(low, high); });
    }

private:
    std::mt19937_64 engine_;
};

inline void report(const char* what, int64_t i, double got, double want) {
    if (++failures > 20) return;
    std::printf("%s: %s[%lld] is %.9g, expected %.9g\n", now.c_str(), what, (long long)i, got, want);
}

template <class T>
void equal(const char* what, const Buffer<T>& got, const Buffer<T>& want) {
    ++comparisons;
    for (int64_t i = 0; i < want.size(); ++i)
        if (std::memcmp(&got[i], &want[i], sizeof(T))) return report(what, i, double(got[i]), double(want[i]));
}

// Within `tolerance` of the largest value, or of `least` if that is larger; NaN is never close.
template <class T>
void close(
    const char* what, const Buffer<T>& got, const Buffer<T>& want, double tolerance = 2e-5, double least = 1e-30) {
    ++comparisons;
    double largest = least;
    for (const T v : want) largest = std::max(largest, std::abs(double(v)));
    for (int64_t i = 0; i < want.size(); ++i)
        if (!(std::abs(double(got[i]) - double(want[i])) <= tolerance * largest))
            return report(what, i, double(got[i]), double(want[i]));
}

inline void expect(bool truth, const char* what) {
    ++comparisons;
    if (!truth && ++failures <= 20) std::printf("%s: not true: %s\n", now.c_str(), what);
}

constexpr float kUnset = std::numeric_limits<float>::quiet_NaN();  // in outputs that must be overwritten
inline Buffer<float> unset(int64_t n) {
    return Buffer<float>(n, [] { return kUnset; });
}

inline const Exec on_cpu{-1, 0, 2};

// op(Exec) on the SIMT machine; it must use the device and the stream that it is given, and give the device back.
template <class Op>
void on_simt(Op op) {
    const Exec e{1, 0x5EED, 1};
    const size_t before = simt::launches.size();
    op(e);
    expect(simt::device == 0, "the caller's device is current again");
    for (size_t i = before; i < simt::launches.size(); ++i) {
        expect(simt::launches[i].device == e.device, "launched on the tensors' device");
        expect(simt::launches[i].stream == reinterpret_cast<void*>(e.stream), "launched on the current stream");
    }
}

// A device-side count: absent, or this value.
struct Count {
    bool given;
    Buffer<int64_t> value{1};
    const int64_t* get() const { return given ? value.get() : nullptr; }
};
inline Count count_of(bool given, int64_t value) {
    Count c{given};
    c.value[0] = value;
    return c;
}

void check_field(Random& random, bool thorough);
void check_raster(Random& random, bool thorough);
void check_render(Random& random, bool thorough);
void check_sizes(Random& random);
void check_mma(Random& random);

}  // namespace check
