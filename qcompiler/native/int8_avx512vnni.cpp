#include "int8_avx512_vectors.h"

#define QCOMPILER_INT8 int8_avx512vnni
#include "int8_body.h"
