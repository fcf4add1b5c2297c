// SPDX-License-Identifier: Apache-2.0
// What operations work on and a session registers: a model, data, a library; files, a folder or memory.
#pragma once

#include "blob.h"
#include "id.h"
#include "list.h"
#include "utils/enum.h"
#include "utils/path.h"
#include <pthread.h>
#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
#include <atomic>
#ifndef atomic_uint
typedef std::atomic<unsigned int> atomic_uint;
#endif
#else
#include <stdatomic.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define VACCEL_RESOURCE_TYPES(X, P) \
	X(P, LIB, 0)                \
	X(P, DATA, 1)               \
	X(P, MODEL, 2)

VACCEL_ENUM_DEFINE(vaccel_resource_type, VACCEL_RESOURCE, VACCEL_RESOURCE_TYPES)

struct vaccel_resource {
	vaccel_id_t id;
	// A remote plugin's id for it.
	vaccel_id_t remote_id;
	vaccel_resource_type_t type;
	vaccel_path_type_t path_type;
	char **paths;
	size_t nr_paths;
	// The folder of its own files, when it has some.
	char *rundir;
	// One for each file; made when the resource is first registered, unless it was made of memory or blobs.
	struct vaccel_blob **blobs;
	size_t nr_blobs;
	// The library's own.
	struct vaccel_list_entry entry;
	struct vaccel_list_entry sessions;
	pthread_mutex_t sessions_lock;
	// Sessions that it is registered in.
	atomic_uint refcount;
	// For plugins.
	void *plugin_priv;
};

int vaccel_resource_get_by_id(struct vaccel_resource **res, vaccel_id_t id);
int vaccel_resource_get_by_type(struct vaccel_resource **res, vaccel_resource_type_t type);
// All of a type, in an array that the caller frees. ENOENT when there is none.
int vaccel_resource_get_all_by_type(struct vaccel_resource ***res, size_t *nr_found, vaccel_resource_type_t type);
long int vaccel_resource_refcount(const struct vaccel_resource *res);

// A resource of a file or a folder, `file://` or plain.
int vaccel_resource_init(struct vaccel_resource *res, const char *path, vaccel_resource_type_t type);
// A resource of several files.
int vaccel_resource_init_multi(struct vaccel_resource *res, const char **paths, size_t nr_paths,
			       vaccel_resource_type_t type);
// A resource of memory, which has to outlive it when `mem_only`, and is copied to a file otherwise.
int vaccel_resource_init_from_buf(struct vaccel_resource *res, const void *buf, size_t nr_bytes,
				  vaccel_resource_type_t type, const char *filename, bool mem_only);
int vaccel_resource_init_from_blobs(struct vaccel_resource *res, const struct vaccel_blob **blobs, size_t nr_blobs,
				    vaccel_resource_type_t type);
// Takes it out of every session first.
int vaccel_resource_release(struct vaccel_resource *res);

// The same on the heap.
int vaccel_resource_new(struct vaccel_resource **res, const char *path, vaccel_resource_type_t type);
int vaccel_resource_multi_new(struct vaccel_resource **res, const char **paths, size_t nr_paths,
			      vaccel_resource_type_t type);
int vaccel_resource_from_buf(struct vaccel_resource **res, const void *buf, size_t nr_bytes,
			     vaccel_resource_type_t type, const char *filename, bool mem_only);
int vaccel_resource_from_blobs(struct vaccel_resource **res, const struct vaccel_blob **blobs, size_t nr_blobs,
			       vaccel_resource_type_t type);
int vaccel_resource_delete(struct vaccel_resource *res);

struct vaccel_session;

int vaccel_resource_register(struct vaccel_resource *res, struct vaccel_session *sess);
int vaccel_resource_unregister(struct vaccel_resource *res, struct vaccel_session *sess);
// Lets a change of a buffer's content be seen, on either side.
int vaccel_resource_sync(struct vaccel_resource *res, struct vaccel_session *sess);
// The folder of a resource made of one: into `out_path`, or into memory that the caller frees when `alloc_path` is
// not NULL.
int vaccel_resource_directory(struct vaccel_resource *res, char *out_path, size_t out_path_size,
			      char **alloc_path);

#ifdef __cplusplus
}
#endif
