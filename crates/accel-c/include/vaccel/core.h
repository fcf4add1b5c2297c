// SPDX-License-Identifier: Apache-2.0
// The library's life. It starts itself, from the environment, at the first call that needs it, unless
// VACCEL_BOOTSTRAP_ENABLED=0, and ends with the process, unless VACCEL_CLEANUP_ENABLED=0.
#pragma once

#include "config.h"

#ifdef __cplusplus
extern "C" {
#endif

// Starts the library, anew when it runs already.
int vaccel_bootstrap(void);
int vaccel_bootstrap_with_config(struct vaccel_config *config);
// Releases every session, resource and plugin.
int vaccel_cleanup(void);
bool vaccel_is_initialized(void);
// A folder of this process alone, made when it is first asked for.
const char *vaccel_rundir(void);
const struct vaccel_config *vaccel_config(void);

#ifdef __cplusplus
}
#endif
