// SPDX-License-Identifier: Apache-2.0
// Log lines at the levels of VACCEL_LOG_LEVEL, with printf's formats.
#pragma once

#include "utils/enum.h"
#include <slog.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VACCEL_LOG_LEVELS(X, P) \
	X(P, ERROR, 1)          \
	X(P, WARN, 2)           \
	X(P, INFO, 3)           \
	X(P, DEBUG, 4)

VACCEL_ENUM_DEFINE(vaccel_log_level, VACCEL_LOG, VACCEL_LOG_LEVELS)

#define vaccel_error slog_error
#define vaccel_warn slog_warn
#define vaccel_info slog_info
#define vaccel_debug slog_debug
#define vaccel_trace slog_trace
#define vaccel_fatal slog_fatal

// Logs as vaccel_config() says from now on.
int vaccel_log_init(void);
int vaccel_log_shutdown(void);

#ifdef __cplusplus
}
#endif
