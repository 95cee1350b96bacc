#define QCOMPILER_OBSERVE observe_neon
#include "observe_body.h"
