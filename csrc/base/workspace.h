// Large pieces of memory: fresh pages cost as much time as the work on them, so they are kept, or are huge.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dfn {

// Asks for huge pages instead of untouched ones; a hint, nothing depends on it.
inline void advise_huge(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = uintptr_t(2) << 20;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) & ~(page - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) & ~(page - 1);
    if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

// A launcher's memory between its passes: `floats`, uninitialised, on huge pages where the system gives them. The last
// one used is kept. Safe from several threads at once.
class Workspace {
public:
    explicit Workspace(int64_t floats) {
        if (floats == 0) return;
        buffer_ = spare().exchange(nullptr);
        if (buffer_ && buffer_->floats >= floats) return;
        release(buffer_);
        buffer_ = new Buffer{floats, nullptr};
        const size_t page = size_t(2) << 20, bytes = (size_t(floats) * sizeof(float) + page - 1) / page * page;
        buffer_->memory = static_cast<float*>(std::aligned_alloc(page, bytes));
        if (!buffer_->memory) {
            delete buffer_;
            throw std::bad_alloc();
        }
        advise_huge(buffer_->memory, bytes);
    }
    ~Workspace() {
        if (buffer_) release(spare().exchange(buffer_));
    }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    // Gives back what is kept.
    static void trim() { release(spare().exchange(nullptr)); }

    float* data() const { return buffer_ ? buffer_->memory : nullptr; }

private:
    struct Buffer {
        int64_t floats;
        float* memory;
    };
    static std::atomic<Buffer*>& spare() {
        static std::atomic<Buffer*> buffer{nullptr};
        return buffer;
    }
    static void release(Buffer* buffer) {
        if (buffer) std::free(buffer->memory);
        delete buffer;
    }

    Buffer* buffer_ = nullptr;
};

}  // namespace dfn
