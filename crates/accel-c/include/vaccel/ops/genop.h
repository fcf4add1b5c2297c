// SPDX-License-Identifier: Apache-2.0
// Any operation, by its number and typed arguments.
#pragma once

#include "vaccel/arg.h"
#include "vaccel/session.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// read[0] is the operation's number, a UINT8; the others and `write` are as the operation has them.
int vaccel_genop(struct vaccel_session *sess, struct vaccel_arg *read, int nr_read, struct vaccel_arg *write,
		 int nr_write);

#ifdef __cplusplus
}
#endif
