// What CUDA says of itself, in a build that has CUDA code.
#pragma once

namespace dfn::cuda {

int runtime_version();  // of the CUDA runtime linked in, 13000 = 13.0
int driver_version();   // of the installed driver, 0 = none
int device_count();

}  // namespace dfn::cuda
