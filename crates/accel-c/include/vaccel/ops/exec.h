// SPDX-License-Identifier: Apache-2.0
// A function of a library: int fn(struct vaccel_arg *read, size_t, struct vaccel_arg *write, size_t).
#pragma once

#include "vaccel/arg.h"
#include "vaccel/resource.h"
#include "vaccel/session.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

int vaccel_exec(struct vaccel_session *sess, const char *library, const char *fn_symbol, struct vaccel_arg *read,
		size_t nr_read, struct vaccel_arg *write, size_t nr_write);

// The last file of the resource is the library; it may use the ones before.
int vaccel_exec_with_resource(struct vaccel_session *sess, struct vaccel_resource *resource, const char *fn_symbol,
			      struct vaccel_arg *read, size_t nr_read, struct vaccel_arg *write, size_t nr_write);

#ifdef __cplusplus
}
#endif
