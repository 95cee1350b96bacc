// int8_amx.cpp with its tiles in plain C++, for processors that have AVX-512 without them.
#include "amx_emulated.h"

#define int8_amx int8_amx_emulated
#include "int8_amx.cpp"
