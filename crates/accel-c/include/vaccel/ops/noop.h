// SPDX-License-Identifier: Apache-2.0
// Nothing: what the way to a plugin and back costs.
#pragma once

#include "vaccel/session.h"

#ifdef __cplusplus
extern "C" {
#endif

int vaccel_noop(struct vaccel_session *sess);

#ifdef __cplusplus
}
#endif
