// SPDX-License-Identifier: Apache-2.0
// A client's view of the accelerators: a preference of plugins, and the resources that it registered.
#pragma once

#include "id.h"
#include "list.h"
#include "resource.h"
#include <limits.h>
#include <linux/limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vaccel_plugin;

struct vaccel_session {
	vaccel_id_t id;
	// A remote plugin's id for it.
	vaccel_id_t remote_id;
	// The VACCEL_PLUGIN_* types that it prefers.
	unsigned int hint;
	// Whether a remote plugin has it.
	bool is_virtio;
	// A folder of its own.
	char rundir[PATH_MAX];
	// The library's own.
	struct vaccel_list_entry entry;
	struct vaccel_list_entry resources[VACCEL_RESOURCE_MAX];
	size_t resource_counts[VACCEL_RESOURCE_MAX];
	pthread_mutex_t resources_lock;
	// The plugin that gets its operations first.
	struct vaccel_plugin *plugin;
	// For plugins.
	void *priv;
};

int vaccel_session_get_by_id(struct vaccel_session **sess, vaccel_id_t id);

// `flags` are VACCEL_PLUGIN_* types: of the plugins that have one of them, the first loaded gets the operations.
int vaccel_session_init(struct vaccel_session *sess, uint32_t flags);
int vaccel_session_release(struct vaccel_session *sess);
int vaccel_session_new(struct vaccel_session **sess, uint32_t flags);
int vaccel_session_delete(struct vaccel_session *sess);

bool vaccel_session_has_resource(struct vaccel_session *sess, struct vaccel_resource *res);
int vaccel_session_resource_by_id(struct vaccel_session *sess, struct vaccel_resource **res, vaccel_id_t id);
int vaccel_session_resource_by_type(struct vaccel_session *sess, struct vaccel_resource **res,
				    vaccel_resource_type_t type);
// All of a type, in an array that the caller frees. ENOENT when there is none.
int vaccel_session_resources_by_type(struct vaccel_session *sess, struct vaccel_resource ***resources,
				     size_t *nr_found, vaccel_resource_type_t type);

// Old names, and what will go.
__attribute__((deprecated("release the session and make another"))) int
vaccel_session_update(struct vaccel_session *sess, uint32_t flags);
__attribute__((deprecated("use vaccel_session_init()"))) int vaccel_sess_init(struct vaccel_session *sess,
									     uint32_t flags);
__attribute__((deprecated("release the session and make another"))) int
vaccel_sess_update(struct vaccel_session *sess, uint32_t flags);
__attribute__((deprecated("use vaccel_session_release()"))) int vaccel_sess_free(struct vaccel_session *sess);
__attribute__((deprecated("use vaccel_session_has_resource()"))) bool
vaccel_sess_has_resource(struct vaccel_session *sess, struct vaccel_resource *res);

#ifdef __cplusplus
}
#endif
