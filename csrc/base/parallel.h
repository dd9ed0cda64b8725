// parallel_for on a persistent pool of threads. Work is cut into chunks of `grain` items whatever the number of
// threads, so a result that depends only on its chunk is bit-identical for any thread count. Safe to use after fork().
#pragma once
#include <cstdint>
#include <functional>

namespace dfn {

// Calls fn(begin, end) for every chunk of [0, n), from at most `threads` threads, the caller among them. Chunks are
// handed out in order but finish in any order. A nested call runs in its caller's thread. The first exception is
// rethrown to the caller.
void parallel_for(
    int64_t n, int threads, const std::function<void(int64_t begin, int64_t end)>& fn, int64_t grain = 1024);

}  // namespace dfn
