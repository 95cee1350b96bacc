// depthwise_avxvnni.cpp with its dot product in AVX512-VNNI's encoding, for processors that have only that one.
#define depthwise_avxvnni depthwise_avxvnni_evex
#include "depthwise_avxvnni.cpp"
