// SPDX-License-Identifier: Apache-2.0
// What a resource's path names.
#pragma once

#include "enum.h"

#ifdef __cplusplus
extern "C" {
#endif

#define VACCEL_PATH_TYPES(X, P) \
	X(P, LOCAL_FILE, 0)     \
	X(P, LOCAL_DIR, 1)      \
	X(P, REMOTE_FILE, 2)

VACCEL_ENUM_DEFINE(vaccel_path_type, VACCEL_PATH, VACCEL_PATH_TYPES)

#ifdef __cplusplus
}
#endif
