// What the C tests share: conditions that have to hold, and that end the program with their place when they do not.
// Tests are called as `TEST FOLDER PLUGINS MODELS`: a folder of their own, one with plugins, one with models.
#pragma once

#include "vaccel.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                                                  \
	do {                                                                              \
		if (!(condition)) {                                                       \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);   \
			_exit(1);                                                         \
		}                                                                         \
	} while (0)

#define RETURNS(expected, call)                                                                         \
	do {                                                                                            \
		long long wanted_ = (expected), got_ = (call);                                          \
		if (wanted_ != got_) {                                                                  \
			fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #call, got_, \
				wanted_);                                                               \
			_exit(1);                                                                       \
		}                                                                                       \
	} while (0)

#define WORKS(call) RETURNS(VACCEL_OK, call)
#define REFUSED(call) RETURNS(VACCEL_EINVAL, call)

static const char *folder, *plugins, *models;

static inline void arguments(int count, char **values)
{
	CHECK(count == 4);
	folder = values[1];
	plugins = values[2];
	models = values[3];
}

// Starts the library with these plugins.
static inline void start_with(const char *names)
{
	struct vaccel_config config;
	WORKS(vaccel_config_init(&config, names, VACCEL_LOG_ERROR, NULL, false, false));
	WORKS(vaccel_bootstrap_with_config(&config));
	WORKS(vaccel_config_release(&config));
}

// "FOLDER/NAME" in one of a few buffers.
static inline const char *in(const char *parent, const char *name)
{
	static __thread char paths[8][PATH_MAX];
	static __thread unsigned next;
	char *path = paths[next++ % 8];
	CHECK(snprintf(path, PATH_MAX, "%s/%s", parent, name) < PATH_MAX);
	return path;
}

static inline const char *write_file(const char *name, const void *bytes, size_t size)
{
	const char *path = in(folder, name);
	FILE *file = fopen(path, "wb");
	CHECK(file && fwrite(bytes, 1, size, file) == size && !fclose(file));
	return path;
}

static inline bool is_there(const char *path)
{
	return access(path, F_OK) == 0;
}
