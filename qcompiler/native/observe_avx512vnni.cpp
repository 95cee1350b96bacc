#define QCOMPILER_OBSERVE observe_avx512vnni
#include "observe_body.h"
