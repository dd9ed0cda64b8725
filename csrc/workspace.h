// Memory of a launcher between its passes. The last one used is kept: fresh pages cost as much time as the passes.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dfn {

// `floats` of uninitialised memory, on huge pages where the system gives them. Safe from several threads at once.
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
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        madvise(buffer_->memory, bytes, MADV_HUGEPAGE);  // a hint: nothing depends on it
#endif
    }
    ~Workspace() {
        if (buffer_) release(spare().exchange(buffer_));
    }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

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
