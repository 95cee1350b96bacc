// int4_amx.cpp with its tiles in plain C++, for processors that have AVX-512 without them.
#include "amx_emulated.h"

#define int4_amx int4_amx_emulated
#include "int4_amx.cpp"
