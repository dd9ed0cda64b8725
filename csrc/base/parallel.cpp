#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace dfn {
namespace {

thread_local bool in_parallel = false;

struct Job {
    Job(int64_t n, int64_t grain, int64_t chunks, const std::function<void(int64_t, int64_t)>* fn, int seats)
        : n(n), grain(grain), chunks(chunks), fn(fn), seats(seats) {}

    const int64_t n, grain, chunks;
    const std::function<void(int64_t, int64_t)>* const fn;
    int seats;                     // workers that may still join; guarded by the pool's mutex
    int active = 0;                // workers inside; guarded by the pool's mutex
    std::atomic<int64_t> next{0};  // the next chunk
    std::mutex error_mutex;
    std::exception_ptr error;

    void work() {
        in_parallel = true;
        for (int64_t c; (c = next.fetch_add(1)) < chunks;) {
            try {
                (*fn)(c* grain, std::min(n, (c + 1) * grain));
            } catch (...) {
                std::lock_guard<std::mutex> lock(error_mutex);
                if (!error) error = std::current_exception();
                next = chunks;
            }
        }
        in_parallel = false;
    }
};

class Pool {
public:
    void run(Job& job) {
        std::lock_guard<std::mutex> one_job_at_a_time(run_mutex_);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            for (; workers_ < job.seats; ++workers_) std::thread([this] { serve(); }).detach();
            job_ = &job;
        }
        wake_.notify_all();
        job.work();
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = nullptr;
        idle_.wait(lock, [&] { return job.active == 0; });
    }

private:
    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return job_ && job_->seats > 0 && job_->next < job_->chunks; });
            Job* job = job_;
            --job->seats, ++job->active;
            lock.unlock();
            job->work();
            lock.lock();
            if (--job->active == 0) idle_.notify_all();
        }
    }

    std::mutex run_mutex_, mutex_;
    std::condition_variable wake_, idle_;
    Job* job_ = nullptr;
    int workers_ = 0;
};

// Never destroyed: the workers are detached and outlive static destruction. A forked child has none of the parent's
// threads, so it drops the parent's pool and builds its own.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
    static const bool registered = [] {
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork(nullptr, nullptr, [] {
            the_pool = nullptr;
            in_parallel = false;
        });
#endif
        return true;
    }();
    (void)registered;
    Pool* current = the_pool;
    if (!current) {
        Pool* fresh = new Pool;
        if (the_pool.compare_exchange_strong(current, fresh)) return *fresh;
        delete fresh;
    }
    return *current;
}

}  // namespace

void parallel_for(int64_t n, int threads, const std::function<void(int64_t, int64_t)>& fn, int64_t grain) {
    const int64_t chunks = (n + grain - 1) / grain;
    const int seats = int(std::min<int64_t>({chunks, threads, 256})) - 1;
    if (seats < 1 || in_parallel) {
        for (int64_t c = 0; c < chunks; ++c) fn(c * grain, std::min(n, (c + 1) * grain));
        return;
    }
    Job job(n, grain, chunks, &fn, seats);
    pool().run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace dfn
