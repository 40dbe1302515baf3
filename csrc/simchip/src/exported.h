#pragma once

// The functions of the ABI: seen from outside, with C names.
#define SIMCHIP_EXPORT extern "C" __attribute__((visibility("default")))
