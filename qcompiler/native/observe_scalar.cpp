#define QCOMPILER_OBSERVE observe_scalar
#include "observe_body.h"
