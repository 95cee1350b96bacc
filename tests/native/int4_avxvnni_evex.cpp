// int4_avxvnni.cpp with its dot product in AVX512-VNNI's encoding, for processors that have only that one.
#define int4_avxvnni int4_avxvnni_evex
#include "int4_avxvnni.cpp"
