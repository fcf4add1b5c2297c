// SPDX-License-Identifier: Apache-2.0
// Regions of a program that are timed when VACCEL_PROFILING_ENABLED=1, and cost nothing otherwise.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Nanoseconds of the monotonic clock at the entry, and spent inside.
struct vaccel_prof_sample {
	uint64_t start;
	uint64_t time;
};

struct vaccel_prof_region {
	const char *name;
	bool name_owned;
	size_t nr_entries;
	struct vaccel_prof_sample *samples;
	// Samples that there is room for.
	size_t size;
};

#define VACCEL_PROF_REGION_INIT(name) { (name), false, 0, NULL, 0 }

bool vaccel_prof_enabled(void);

int vaccel_prof_region_init(struct vaccel_prof_region *region, const char *name);
int vaccel_prof_region_start(struct vaccel_prof_region *region);
int vaccel_prof_region_stop(const struct vaccel_prof_region *region);
// Logs the number of samples and the sum of their times.
int vaccel_prof_region_print(const struct vaccel_prof_region *region);
int vaccel_prof_region_release(struct vaccel_prof_region *region);

// The same for arrays. Regions of an initialized array have names of up to 255 bytes, to be written by the caller.
int vaccel_prof_regions_init(struct vaccel_prof_region *regions, int nregions);
int vaccel_prof_regions_start_by_name(struct vaccel_prof_region *regions, int nregions, const char *name);
int vaccel_prof_regions_stop_by_name(struct vaccel_prof_region *regions, int nregions, const char *name);
int vaccel_prof_regions_print_all(struct vaccel_prof_region *regions, int nregions);
int vaccel_prof_regions_release(struct vaccel_prof_region *regions, int nregions);

// With `tbuf` NULL: how many bytes the text takes. Otherwise: the text, one string after the other, in memory of
// `tbuf_len` bytes that the caller frees; returns the number of regions, or a negative error.
int vaccel_prof_regions_print_all_to_buf(char **tbuf, size_t tbuf_len, struct vaccel_prof_region *regions,
					 int size);

#ifdef __cplusplus
}
#endif
