// SPDX-License-Identifier: Apache-2.0
// Not part of vAccel's public headers, but its example programs read their files with it.
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Reads a whole file into memory that the caller frees. `size` may be NULL. EINVAL for an empty file.
int fs_file_read(const char *path, void **data, size_t *size);

#ifdef __cplusplus
}
#endif
