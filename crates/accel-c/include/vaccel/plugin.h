// SPDX-License-Identifier: Apache-2.0
// What a plugin library is made of, and how plugins are loaded.
#pragma once

#include "list.h"
#include "op.h"
#include "resource.h"
#include "session.h"
#include "utils/enum.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VACCEL_PLUGIN_TYPES(X, P) \
	X(P, CPU, 0x0001)         \
	X(P, GPU, 0x0002)         \
	X(P, FPGA, 0x0004)        \
	X(P, SOFTWARE, 0x0008)    \
	X(P, TENSORFLOW, 0x0010)  \
	X(P, TORCH, 0x0020)       \
	X(P, JETSON, 0x0040)      \
	X(P, GENERIC, 0x0080)     \
	X(P, DEBUG, 0x0100)       \
	X(P, REMOTE, 0x4000)      \
	X(P, ALL, 0xffff)

VACCEL_ENUM_DEFINE(vaccel_plugin_type, VACCEL_PLUGIN, VACCEL_PLUGIN_TYPES)

struct vaccel_plugin_info {
	const char *name;
	const char *version;
	// VACCEL_VERSION of the headers that it was built with. Another major version is refused.
	const char *vaccel_version;
	// Called after loading and before unloading; init registers the operations.
	int (*init)(void);
	int (*fini)(void);
	// Whether it hands sessions and resources on to somewhere else, by the functions below.
	bool is_virtio;
	// A set of VACCEL_PLUGIN_* types.
	vaccel_plugin_type_t type;
	int (*session_init)(struct vaccel_session *sess, uint32_t flags);
	int (*session_release)(struct vaccel_session *sess);
	int (*session_update)(struct vaccel_session *sess, uint32_t flags);
	int (*resource_register)(struct vaccel_resource *res, struct vaccel_session *sess);
	int (*resource_unregister)(struct vaccel_resource *res, struct vaccel_session *sess);
	int (*resource_sync)(struct vaccel_resource *res, struct vaccel_session *sess);
};

struct vaccel_plugin {
	void *dl_handle;
	struct vaccel_list_entry entry;
	struct vaccel_op *ops[VACCEL_OP_MAX];
	struct vaccel_plugin_info *info;
};

// Makes this library a plugin, from the fields of vaccel_plugin_info. C only.
#define VACCEL_PLUGIN(...)                                                              \
	static struct vaccel_plugin_info vaccel_this_plugin_info_ = { __VA_ARGS__ };    \
	__attribute__((visibility("hidden"))) struct vaccel_plugin vaccel_this_plugin = { \
		.dl_handle = NULL,                                                      \
		.entry = LIST_ENTRY_INIT(vaccel_this_plugin.entry),                     \
		.ops = { NULL },                                                        \
		.info = &vaccel_this_plugin_info_                                       \
	};                                                                              \
	const struct vaccel_plugin *vaccel_plugin = &vaccel_this_plugin;

// Adds operations to the plugin that owns the first. Called from its init.
int vaccel_plugin_register_ops(struct vaccel_op *ops, size_t nr_ops);

// Loads one of Kernlet's own plugins by its name, or a library by its path or by its name on the library path.
int vaccel_plugin_load(const char *lib);
// Loads several, joined by colons, up to the first that cannot be loaded.
int vaccel_plugin_parse_and_load(const char *lib_str);

static inline int vaccel_plugin_register_op(struct vaccel_op *op)
{
	return vaccel_plugin_register_ops(op, 1);
}

// Old names.
#define VACCEL_MODULE(...)                                                   \
	_Pragma("GCC warning \"VACCEL_MODULE() is now VACCEL_PLUGIN()\"") \
	VACCEL_PLUGIN(__VA_ARGS__)

__attribute__((deprecated("use vaccel_plugin_register_op()"))) static inline int
register_plugin_function(struct vaccel_op *plugin_op)
{
	return vaccel_plugin_register_op(plugin_op);
}

__attribute__((deprecated("use vaccel_plugin_register_ops()"))) static inline int
register_plugin_functions(struct vaccel_op *plugin_ops, size_t nr_ops)
{
	return vaccel_plugin_register_ops(plugin_ops, nr_ops);
}

#ifdef __cplusplus
}
#endif
