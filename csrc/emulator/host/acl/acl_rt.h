// Part of acl.h here.
#ifndef MOGE_EMULATOR_HOST_ACL_RT_H_
#define MOGE_EMULATOR_HOST_ACL_RT_H_

#include "acl.h"

#endif  // MOGE_EMULATOR_HOST_ACL_RT_H_
