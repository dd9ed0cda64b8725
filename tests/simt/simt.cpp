// The scheduler of simt.h. Compiled without ThreadSanitizer, which must not see its bookkeeping as a kernel's.
#include "simt.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>

#if defined(SIMT_TSAN)
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#elif defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// A suspended fiber. On x86-64 it is a stack pointer below the registers that a call keeps: swapcontext asks the kernel
// for the signal mask every time, and a warp function is 32 switches.
#if defined(__x86_64__) && !defined(__CET__)
using Context = void*;
extern "C" void simt_switch(Context* from, Context to);
asm(R"(
.text
.type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch, . - simt_switch
)");
static void switch_context(Context& from, Context& to) { simt_switch(&from, to); }
static void make_context(Context& context, char* stack, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + size) - 3;  // entry finds the stack as a call leaves it
    top[-1] = reinterpret_cast<void*>(entry);
    context = top - 7;
}
#else
#include <ucontext.h>
using Context = ucontext_t;
static void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
static void make_context(Context& context, char* stack, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack, context.uc_stack.ss_size = size, context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
#endif

// `__shared__` variables lie between these (cuda_runtime.h); null where a program has none.
extern "C" char __start_simt_shared[] __attribute__((weak));
extern "C" char __stop_simt_shared[] __attribute__((weak));

namespace simt {

Settings settings;
int device = 0;
std::vector<Launch> launches;
int64_t atomics = 0;

namespace {

constexpr size_t kStack = 64 * 1024;
constexpr int kMaxThreads = 1024, kWarp = 32, kWarps = kMaxThreads / kWarp;

enum class State { fresh, ready, at_barrier, at_warp, done };

struct Thread {
    State state;
    Context context;
    int stack;
    Site site;  // where it waits
    unsigned mask;
    uint64_t value, answer[kWarp];
};

Thread* const threads = new Thread[kMaxThreads]();
unsigned arrived[kWarps];  // lanes that wait at a warp function
Context scheduler;
const std::function<void()>* body = nullptr;
int running = -1, count = 0;  // the thread that runs, -1 for the scheduler; threads of the block
std::vector<uint64_t> turns;  // the threads in the order of this round, and where it is
size_t turn = 0;
int block_stack = 0;  // the stack of the block's first thread
char* dynamic = nullptr;
std::mt19937_64 generator;
// What memory order hangs on: start and end of a launch; the block's barriers, in turn; each warp's.
char started, ended, block_object[2], warp_object[kWarps];
unsigned block_phase;

#if defined(SIMT_TSAN)
void* scheduler_fiber;
void release(char& object) { __tsan_release(&object); }
void acquire(char& object) { __tsan_acquire(&object); }

// ThreadSanitizer's name of what runs on a stack. A block's threads start on other stacks than those of the last
// block, so that few pairs of threads are taken for one.
void* fiber_of(int stack) {
    static void* fibers[kMaxThreads];
    if (!fibers[stack]) fibers[stack] = __tsan_create_fiber(0);
    return fibers[stack];
}
int first_stack() { return int(generator() % kMaxThreads); }
void name_fiber(void* fiber) { __tsan_switch_to_fiber(fiber, 1); }  // 1: switching orders nothing
#else
void release(char&) {}
void acquire(char&) {}
int first_stack() { return 0; }
#endif

#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack;
size_t scheduler_stack_size;
void start_switch(void** save, const void* stack, size_t size) { __sanitizer_start_switch_fiber(save, stack, size); }
void finish_switch(void* saved, const void** old, size_t* size) { __sanitizer_finish_switch_fiber(saved, old, size); }
#else
const void* scheduler_stack;
size_t scheduler_stack_size;
void start_switch(void**, const void*, size_t) {}
void finish_switch(void*, const void**, size_t*) {}
#endif

char* stack_of(int stack) {
    static char* const memory = static_cast<char*>(mmap(
        nullptr, kStack * kMaxThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    return memory + size_t(stack) * kStack;
}

// From the running thread to the scheduler.
void leave(State state) {
    Thread& self = threads[running];
    self.state = state;
    void* save = nullptr;
#if defined(SIMT_TSAN)
    name_fiber(scheduler_fiber);
#endif
    start_switch(state == State::done ? nullptr : &save, scheduler_stack, scheduler_stack_size);
    switch_context(self.context, scheduler);
    finish_switch(save, nullptr, nullptr);
}

void become(int t) {
    running = t;
    threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}

// After its thread has returned, the next fresh one may begin on the same stack: most kernels need no switch at all.
bool take_over() {
#if defined(SIMT_TSAN)
    return false;
#else
    if (turn + 1 == turns.size() || threads[turns[turn + 1]].state != State::fresh) return false;
    const int stack = threads[running].stack;
    threads[running].state = State::done;
    become(int(turns[++turn]));
    threads[running].state = State::ready, threads[running].stack = stack;
    return true;
#endif
}

void entry() {
    finish_switch(nullptr, &scheduler_stack, &scheduler_stack_size);
    do {
        acquire(started);
        (*body)();
        release(ended);
    } while (take_over());
    leave(State::done);
}

void resume(int t) {
    Thread& thread = threads[t];
    if (thread.state == State::fresh) {
        thread.stack = (t + block_stack) % kMaxThreads;
        make_context(thread.context, stack_of(thread.stack), kStack, entry);
    }
    thread.state = State::ready;
    become(t);
    void* save = nullptr;
#if defined(SIMT_TSAN)
    name_fiber(fiber_of(thread.stack));
#endif
    start_switch(&save, stack_of(thread.stack), kStack);
    switch_context(scheduler, thread.context);
    finish_switch(save, nullptr, nullptr);
    running = -1;
}

std::string describe(const Thread& t) {
    if (t.state == State::done) return "have returned";
    std::string at = std::string(t.site.what) + " (" + t.site.file + ":" + std::to_string(t.site.line);
    if (t.state != State::at_warp) return "wait at " + at + ")";
    char mask[32];
    std::snprintf(mask, sizeof mask, ", mask %08x)", t.mask);
    return "wait at " + at + mask;
}

// "32 threads wait at __syncthreads (a.cu:5), 1 have returned"
std::string describe_all() {
    std::vector<std::pair<std::string, int>> groups;
    for (int t = 0; t < count; ++t) {
        const std::string text = describe(threads[t]);
        auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == text; });
        if (same == groups.end())
            groups.emplace_back(text, 1);
        else
            ++same->second;
    }
    std::string all;
    for (const auto& [text, number] : groups)
        all += (all.empty() ? "" : ", ") + std::to_string(number) + " threads " + text;
    return all;
}

bool same_place(const Site& a, const Site& b) {
    return a.line == b.line && !std::strcmp(a.file, b.file) && !std::strcmp(a.what, b.what);
}

// Opens the block's barrier once no thread can do anything else.
bool open_barrier() {
    int waiting = 0;
    for (int t = 0; t < count; ++t) waiting += threads[t].state == State::at_barrier;
    if (!waiting) return false;
    for (int t = 0; t < count; ++t)
        if (threads[t].state != State::at_barrier || !same_place(threads[t].site, threads[0].site))
            fail("divergent barrier: %s", describe_all().c_str());
    for (int t = 0; t < count; ++t) threads[t].state = State::ready;
    ++block_phase;
    return true;
}

// Lets the lanes of a mask go on if all of them have arrived.
void try_exchange(int t) {
    const int warp = t / kWarp * kWarp;
    const Thread& self = threads[t];
    unsigned& here = arrived[t / kWarp] |= 1u << t % kWarp;
    if (self.mask & ~here) return;
    for (int lane = 0; lane < kWarp; ++lane) {
        if (!(self.mask >> lane & 1)) continue;
        const Thread& other = threads[warp + lane];
        if (other.mask != self.mask || !same_place(other.site, self.site)) return;
    }
    for (int lane = 0; lane < kWarp; ++lane) {
        if (!(self.mask >> lane & 1)) continue;
        Thread& other = threads[warp + lane];
        for (int from = 0; from < kWarp; ++from)
            other.answer[from] = self.mask >> from & 1 ? threads[warp + from].value : ~uint64_t(0);
    }
    for (int lane = 0; lane < kWarp; ++lane)
        if (self.mask >> lane & 1) threads[warp + lane].state = State::ready;
    here &= ~self.mask;
}

std::vector<uint64_t> ordered(uint64_t n) {
    std::vector<uint64_t> order(n);
    std::iota(order.begin(), order.end(), uint64_t(0));
    if (settings.order == Order::reverse) std::reverse(order.begin(), order.end());
    if (settings.order == Order::shuffled) std::shuffle(order.begin(), order.end(), generator);
    return order;
}

// A block's dynamic shared memory: memory that no thread of an earlier block has touched, of exactly this size.
char* new_shared(size_t bytes) {
#if defined(SIMT_TSAN)
    constexpr size_t kMost = 256 * 1024;  // mapped anew: ThreadSanitizer forgets who used it
    static char* memory = nullptr;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (memory ? MAP_FIXED : 0);
    if (bytes || !memory) memory = static_cast<char*>(mmap(memory, kMost, PROT_READ | PROT_WRITE, flags, -1, 0));
    return memory;
#else
    static std::unique_ptr<char[]> memory;
    memory.reset(new char[bytes]);  // AddressSanitizer guards both ends
    return memory.get();
#endif
}

// Over AddressSanitizer's guards as well.
__attribute__((no_sanitize_address)) void poison(char* begin, const char* end) {
    for (volatile char* byte = begin; byte != end; ++byte) *byte = char(settings.poison);
}

void begin_block(size_t shared) {
    poison(__start_simt_shared, __stop_simt_shared);
    dynamic = new_shared(shared);
    poison(dynamic, dynamic + shared);
    for (int t = 0; t < count; ++t) threads[t].state = State::fresh;
    std::fill(arrived, arrived + kWarps, 0u);
    block_stack = first_stack();
}

void run_block(size_t shared) {
    begin_block(shared);
    release(started);
    for (bool progress = true; progress;) {
        progress = false;
        turns = ordered(count);
        for (turn = 0; turn < turns.size(); ++turn) {
            const State state = threads[turns[turn]].state;
            if (state != State::fresh && state != State::ready) continue;
            resume(int(turns[turn]));
            progress = true;
        }
        const auto done = [](const Thread& thread) { return thread.state == State::done; };
        if (std::all_of(threads, threads + count, done)) break;
        const auto stuck = [](const Thread& thread) { return thread.state == State::at_warp; };
        if (!progress && std::any_of(threads, threads + count, stuck)) fail("deadlock: %s", describe_all().c_str());
        if (!progress) progress = open_barrier();
    }
}

}  // namespace

void block_barrier(Site site) {
    const int self = running;
    threads[self].site = site;
    char& object = block_object[block_phase & 1];
    release(object);
    leave(State::at_barrier);
    acquire(object);
}

const uint64_t* exchange(Site site, unsigned mask, uint64_t value) {
    const int self = running;
    Thread& thread = threads[self];
    if (!(mask >> lane() & 1))
        fail("%s (%s:%d): mask %08x leaves out the caller", site.what, site.file, site.line, mask);
    thread.site = site, thread.mask = mask, thread.value = value, thread.state = State::at_warp;
    const bool orders_memory = !std::strcmp(site.what, "__syncwarp");
    char& object = warp_object[self / kWarp];
    if (orders_memory) release(object);
    try_exchange(self);
    leave(thread.state);  // also when all are here, so that the others may run first
    if (orders_memory) acquire(object);
    return thread.answer;
}

int lane() { return running % kWarp; }

void* dynamic_shared() { return dynamic; }

void fail(const char* format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    std::fflush(stdout);
    std::fprintf(stderr, "simt: block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
    if (running >= 0) std::fprintf(stderr, " thread (%u, %u, %u)", threadIdx.x, threadIdx.y, threadIdx.z);
    std::fprintf(stderr, ": %s\n", text);
    _exit(kFailure);
}

Status run(const Launch& launch, size_t allowed_shared, const std::function<void()>& thread) {
    const dim3 g = launch.grid, b = launch.block;
    const uint64_t size = uint64_t(b.x) * b.y * b.z;
    if (!g.x || !g.y || !g.z || g.x > 0x7FFFFFFFu || g.y > 65535 || g.z > 65535) return Status::invalid_configuration;
    if (!size || size > kMaxThreads || b.z > 64) return Status::invalid_configuration;
    if (launch.shared > allowed_shared) return Status::invalid_configuration;
    launches.push_back(launch);
    generator.seed(settings.seed + launches.size());
    gridDim = g, blockDim = b, count = int(size), body = &thread;
#if defined(SIMT_TSAN)
    scheduler_fiber = __tsan_get_current_fiber();
#endif
    for (const uint64_t block : ordered(uint64_t(g.x) * g.y * g.z)) {
        blockIdx = {unsigned(block % g.x), unsigned(block / g.x % g.y), unsigned(block / g.x / g.y)};
        run_block(launch.shared);
    }
    acquire(ended);
    return Status::ok;
}

}  // namespace simt
