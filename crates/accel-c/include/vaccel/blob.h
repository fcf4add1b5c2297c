// SPDX-License-Identifier: Apache-2.0
// A named piece of data: a file, memory, or memory that a file was read into.
#pragma once

#include "utils/enum.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VACCEL_BLOB_TYPES(X, P) \
	X(P, FILE, 0)           \
	X(P, BUFFER, 1)         \
	X(P, MAPPED, 2)

VACCEL_ENUM_DEFINE(vaccel_blob_type, VACCEL_BLOB, VACCEL_BLOB_TYPES)

struct vaccel_resource;

struct vaccel_blob {
	vaccel_blob_type_t type;
	char *name;
	// The file; NULL for a buffer that is in no file.
	char *path;
	// Whether the file goes with the blob.
	bool path_owned;
	// NULL, with a size of 0, for a file that was not read yet.
	uint8_t *data;
	// Whether the memory goes with the blob.
	bool data_owned;
	size_t size;
};

// Writes a buffer to a file in `dir` that goes with the blob; under another name when `filename` is taken there or
// `randomize` is true. EEXIST when the blob has a file already.
int vaccel_blob_persist(struct vaccel_blob *blob, const char *dir, const char *filename, bool randomize);

// A blob of a file, which is not read yet.
int vaccel_blob_init(struct vaccel_blob *blob, const char *path);
// A blob of memory: of a copy when `own`, and in a file when `dir` is not NULL.
int vaccel_blob_init_from_buf(struct vaccel_blob *blob, const uint8_t *buf, size_t size, bool own,
			      const char *filename, const char *dir, bool randomize);
int vaccel_blob_release(struct vaccel_blob *blob);

// The same on the heap.
int vaccel_blob_new(struct vaccel_blob **blob, const char *path);
int vaccel_blob_from_buf(struct vaccel_blob **blob, const uint8_t *buf, size_t size, bool own,
			 const char *filename, const char *dir, bool randomize);
int vaccel_blob_delete(struct vaccel_blob *blob);

// Reads the file, unless that was done.
int vaccel_blob_read(struct vaccel_blob *blob);
// The data, read when it was not yet. NULL when it cannot be read.
uint8_t *vaccel_blob_data(struct vaccel_blob *blob, size_t *size);
const char *vaccel_blob_path(struct vaccel_blob *blob);
bool vaccel_blob_valid(const struct vaccel_blob *blob);

#ifdef __cplusplus
}
#endif
