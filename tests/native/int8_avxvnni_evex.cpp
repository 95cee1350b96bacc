// int8_avxvnni.cpp with its dot product in AVX512-VNNI's encoding, for processors that have only that one.
#define int8_avxvnni int8_avxvnni_evex
#include "int8_avxvnni.cpp"
