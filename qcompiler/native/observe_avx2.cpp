#define QCOMPILER_OBSERVE observe_avx2
#include "observe_body.h"
