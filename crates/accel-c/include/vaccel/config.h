// SPDX-License-Identifier: Apache-2.0
// What the library is started with. Each field has an environment variable, given with it.
#pragma once

#include "log.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vaccel_config {
	// VACCEL_PLUGINS: names of Kernlet's own plugins, and libraries, joined by colons. NULL: Kernlet's own.
	char *plugins;
	// VACCEL_LOG_LEVEL
	vaccel_log_level_t log_level;
	// VACCEL_LOG_FILE. NULL: standard error.
	char *log_file;
	// VACCEL_PROFILING_ENABLED: whether profiling regions measure.
	bool profiling_enabled;
	// VACCEL_VERSION_IGNORE: whether plugins of other versions are loaded unchecked.
	bool version_ignore;
};

// Fills a configuration with copies of the strings. _release() frees them.
int vaccel_config_init(struct vaccel_config *config, const char *plugins, vaccel_log_level_t log_level,
		       const char *log_file, bool profiling_enabled, bool version_ignore);
int vaccel_config_init_from_env(struct vaccel_config *config);
int vaccel_config_init_from(struct vaccel_config *config, struct vaccel_config *config_src);
int vaccel_config_release(struct vaccel_config *config);

// The same on the heap. _delete() frees it.
int vaccel_config_new(struct vaccel_config **config, const char *plugins, vaccel_log_level_t log_level,
		      const char *log_file, bool profiling_enabled, bool version_ignore);
int vaccel_config_from_env(struct vaccel_config **config);
int vaccel_config_from(struct vaccel_config **config, struct vaccel_config *config_src);
int vaccel_config_delete(struct vaccel_config *config);

void vaccel_config_print_debug(struct vaccel_config *config);

#ifdef __cplusplus
}
#endif
