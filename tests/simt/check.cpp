// Runs every CUDA kernel of csrc on the SIMT machine and compares with the CPU launchers: check [quick]. Exit status 0
// if all agree. The sanitizers that this is built with watch both.
#include "check.h"

int main(int argc, char** argv) {
    const bool thorough = argc < 2 || std::strcmp(argv[1], "quick") != 0;
    const simt::Settings passes[] = {
        {simt::Order::forward, 0, 0xFF}, {simt::Order::reverse, 0, 0x7F}, {simt::Order::shuffled, 1, 0xAA}};
    for (const simt::Settings& pass : passes) {
        simt::settings = pass;
        check::Random random(7 + int(pass.order));
        check::check_field(random, thorough);
        check::check_render(random, thorough);
        if (!thorough) break;
    }
    std::printf("%zu launches, %d comparisons, %d failures\n", simt::launches.size(), check::comparisons, check::failures);
    return check::failures ? 1 : 0;
}
