// Runs every CUDA kernel of csrc on the SIMT machine and compares with the CPU launchers: check [quick]. Exit status 0
// if all agree. The sanitizers that this is built with watch both.
//
// The passes differ in the order of threads and blocks; quick is one of them, and small sizes.
#include "check.h"

int main(int argc, char** argv) {
    const bool thorough = argc < 2 || std::strcmp(argv[1], "quick") != 0;
    const simt::Settings passes[] = {
        {simt::Order::forward, 0, 0xFF}, {simt::Order::reverse, 0, 0x7F}, {simt::Order::shuffled, 1, 0xAA}};
    for (const simt::Settings& pass : passes) {
        if (!thorough && pass.order != simt::Order::shuffled) continue;
        simt::settings = pass;
        check::Random random(7 + int(pass.order));
        const bool all = thorough && pass.order == simt::Order::forward;
        check::check_mma(random);
        check::check_field(random, all);
        check::check_raster(random, all);
        check::check_render(random, all);
        if (all) check::check_sizes(random);
    }
    std::printf(
        "%zu launches, %d comparisons, %d failures\n", simt::launches.size(), check::comparisons, check::failures);
    return check::failures ? 1 : 0;
}
