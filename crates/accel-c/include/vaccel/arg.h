// SPDX-License-Identifier: Apache-2.0
// Typed arguments of generic operations, and arrays of them that are filled and read in order.
// Reading past the end is ERANGE; another type or size than the argument's is EINVAL; an array that wraps
// somebody else's arguments does not grow, which is ERANGE as well.
#pragma once

#include "utils/enum.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VACCEL_ARG_TYPES(X, P)  \
	X(P, RAW, 0)            \
	X(P, INT8, 1)           \
	X(P, INT8_ARRAY, 2)     \
	X(P, INT16, 3)          \
	X(P, INT16_ARRAY, 4)    \
	X(P, INT32, 5)          \
	X(P, INT32_ARRAY, 6)    \
	X(P, INT64, 7)          \
	X(P, INT64_ARRAY, 8)    \
	X(P, UINT8, 9)          \
	X(P, UINT8_ARRAY, 10)   \
	X(P, UINT16, 11)        \
	X(P, UINT16_ARRAY, 12)  \
	X(P, UINT32, 13)        \
	X(P, UINT32_ARRAY, 14)  \
	X(P, UINT64, 15)        \
	X(P, UINT64_ARRAY, 16)  \
	X(P, FLOAT32, 17)       \
	X(P, FLOAT32_ARRAY, 18) \
	X(P, FLOAT64, 19)       \
	X(P, FLOAT64_ARRAY, 20) \
	X(P, BOOL, 21)          \
	X(P, BOOL_ARRAY, 22)    \
	X(P, CHAR, 23)          \
	X(P, CHAR_ARRAY, 24)    \
	X(P, UCHAR, 25)         \
	X(P, UCHAR_ARRAY, 26)   \
	X(P, STRING, 27)        \
	X(P, BUFFER, 28)        \
	X(P, CUSTOM, 29)

VACCEL_ENUM_DEFINE(vaccel_arg_type, VACCEL_ARG, VACCEL_ARG_TYPES)

// X(name in functions, C type, type of one, type of an array)
#define VACCEL_ARG_NUMERIC_TYPES(X)                                     \
	X(int8, int8_t, VACCEL_ARG_INT8, VACCEL_ARG_INT8_ARRAY)         \
	X(int16, int16_t, VACCEL_ARG_INT16, VACCEL_ARG_INT16_ARRAY)     \
	X(int32, int32_t, VACCEL_ARG_INT32, VACCEL_ARG_INT32_ARRAY)     \
	X(int64, int64_t, VACCEL_ARG_INT64, VACCEL_ARG_INT64_ARRAY)     \
	X(uint8, uint8_t, VACCEL_ARG_UINT8, VACCEL_ARG_UINT8_ARRAY)     \
	X(uint16, uint16_t, VACCEL_ARG_UINT16, VACCEL_ARG_UINT16_ARRAY) \
	X(uint32, uint32_t, VACCEL_ARG_UINT32, VACCEL_ARG_UINT32_ARRAY) \
	X(uint64, uint64_t, VACCEL_ARG_UINT64, VACCEL_ARG_UINT64_ARRAY) \
	X(float, float, VACCEL_ARG_FLOAT32, VACCEL_ARG_FLOAT32_ARRAY)   \
	X(double, double, VACCEL_ARG_FLOAT64, VACCEL_ARG_FLOAT64_ARRAY) \
	X(bool, bool, VACCEL_ARG_BOOL, VACCEL_ARG_BOOL_ARRAY)           \
	X(char, char, VACCEL_ARG_CHAR, VACCEL_ARG_CHAR_ARRAY)           \
	X(uchar, unsigned char, VACCEL_ARG_UCHAR, VACCEL_ARG_UCHAR_ARRAY)

struct vaccel_arg {
	void *buf;
	// Bytes at `buf`.
	size_t size;
	vaccel_arg_type_t type;
	// What VACCEL_ARG_CUSTOM stands for.
	uint32_t custom_type_id;
	// Whether `buf` goes with the argument.
	bool owned;
};

// An argument with a copy of `buf`, or with zeroes when that is NULL.
int vaccel_arg_init(struct vaccel_arg *arg, const void *buf, size_t size, vaccel_arg_type_t type,
		    uint32_t custom_id);
// An argument that refers to `buf`.
int vaccel_arg_init_from_buf(struct vaccel_arg *arg, void *buf, size_t size, vaccel_arg_type_t type,
			     uint32_t custom_id);
int vaccel_arg_release(struct vaccel_arg *arg);

// The same on the heap.
int vaccel_arg_new(struct vaccel_arg **arg, const void *buf, size_t size, vaccel_arg_type_t type,
		   uint32_t custom_id);
int vaccel_arg_from_buf(struct vaccel_arg **arg, void *buf, size_t size, vaccel_arg_type_t type,
			uint32_t custom_id);
int vaccel_arg_delete(struct vaccel_arg *arg);

struct vaccel_arg_array {
	struct vaccel_arg *args;
	// Arguments that there are, and that there is room for.
	size_t count;
	size_t capacity;
	// The next argument to be read.
	size_t position;
	// Whether `args` goes with the array.
	bool owned;
};

// Whether `buf` holds a value of a custom type.
typedef bool (*vaccel_arg_type_validator_fn)(const void *buf, size_t size, uint32_t custom_id);
// Turns data into bytes, in memory from malloc().
typedef int (*vaccel_arg_serializer_fn)(const void *data, size_t data_size, uint32_t custom_id, void **buf,
					size_t *size);
// Turns bytes into data, in the caller's memory.
typedef int (*vaccel_arg_deserializer_fn)(const void *buf, size_t size, uint32_t custom_id, size_t data_size,
					  void *data);

int vaccel_arg_array_init(struct vaccel_arg_array *array, size_t initial_capacity);
int vaccel_arg_array_release(struct vaccel_arg_array *array);
int vaccel_arg_array_new(struct vaccel_arg_array **array, size_t initial_capacity);
int vaccel_arg_array_delete(struct vaccel_arg_array *array);
// An array of the caller's arguments.
int vaccel_arg_array_wrap(struct vaccel_arg_array *array, struct vaccel_arg *args, size_t count);
// Releases the arguments and keeps the room.
void vaccel_arg_array_clear(struct vaccel_arg_array *array);

// Adding refers to the caller's memory, which has to outlive the array.
int vaccel_arg_array_add_raw(struct vaccel_arg_array *array, void *buf, size_t size);

// Getting one copies it; getting an array lends it. Setting copies into the argument's memory.
#define VACCEL_ARG_ARRAY_DECLARE_(NAME, TYPE, ONE, MANY)                                                       \
	int vaccel_arg_array_add_##NAME(struct vaccel_arg_array *array, TYPE *value);                          \
	int vaccel_arg_array_add_##NAME##_array(struct vaccel_arg_array *array, TYPE *values, size_t count);   \
	int vaccel_arg_array_get_##NAME(struct vaccel_arg_array *array, TYPE *value);                          \
	int vaccel_arg_array_get_##NAME##_array(struct vaccel_arg_array *array, TYPE **values, size_t *count); \
	int vaccel_arg_array_set_##NAME(struct vaccel_arg_array *array, TYPE *value);                          \
	int vaccel_arg_array_set_##NAME##_array(struct vaccel_arg_array *array, TYPE *values, size_t count);

VACCEL_ARG_NUMERIC_TYPES(VACCEL_ARG_ARRAY_DECLARE_)

int vaccel_arg_array_add_string(struct vaccel_arg_array *array, char *str);
int vaccel_arg_array_add_buffer(struct vaccel_arg_array *array, void *buf, size_t size);
int vaccel_arg_array_add_custom(struct vaccel_arg_array *array, uint32_t custom_id, void *buf, size_t size,
				vaccel_arg_type_validator_fn validator);
// Adds what the serializer makes, which goes with the array.
int vaccel_arg_array_add_serialized(struct vaccel_arg_array *array, vaccel_arg_type_t type, uint32_t custom_id,
				    const void *data, size_t data_size, vaccel_arg_serializer_fn serializer);
// Adds arguments of another array, with copies of their memory when `copy`.
int vaccel_arg_array_add_range(struct vaccel_arg_array *dest, const struct vaccel_arg_array *src, size_t start_idx,
			       size_t count, bool copy);
int vaccel_arg_array_add_remaining(struct vaccel_arg_array *dest, const struct vaccel_arg_array *src, bool copy);
int vaccel_arg_array_add_all(struct vaccel_arg_array *dest, const struct vaccel_arg_array *src, bool copy);

int vaccel_arg_array_get_raw(struct vaccel_arg_array *array, void **buf, size_t *size);
int vaccel_arg_array_get_string(struct vaccel_arg_array *array, char **str);
int vaccel_arg_array_get_buffer(struct vaccel_arg_array *array, void **buf, size_t *size);
int vaccel_arg_array_get_custom(struct vaccel_arg_array *array, uint32_t expected_id, void **buf, size_t *size,
				vaccel_arg_type_validator_fn validator);
int vaccel_arg_array_get_serialized(struct vaccel_arg_array *array, vaccel_arg_type_t expected_type,
				    uint32_t expected_custom_id, void *data, size_t expected_size,
				    vaccel_arg_deserializer_fn deserializer);

int vaccel_arg_array_set_raw(struct vaccel_arg_array *array, void *buf, size_t size);
int vaccel_arg_array_set_string(struct vaccel_arg_array *array, char *str);
int vaccel_arg_array_set_buffer(struct vaccel_arg_array *array, void *buf, size_t size);
int vaccel_arg_array_set_custom(struct vaccel_arg_array *array, uint32_t expected_id, void *buf, size_t size,
				vaccel_arg_type_validator_fn validator);
int vaccel_arg_array_set_serialized(struct vaccel_arg_array *array, vaccel_arg_type_t expected_type,
				    uint32_t expected_custom_id, void *data, size_t data_size,
				    vaccel_arg_serializer_fn serializer);

int vaccel_arg_array_get_remaining(struct vaccel_arg_array *array, struct vaccel_arg **args, size_t *count);
size_t vaccel_arg_array_remaining_count(const struct vaccel_arg_array *array);
size_t vaccel_arg_array_position(const struct vaccel_arg_array *array);
void vaccel_arg_array_set_position(struct vaccel_arg_array *array, size_t position);
void vaccel_arg_array_reset_position(struct vaccel_arg_array *array);
size_t vaccel_arg_array_count(const struct vaccel_arg_array *array);
struct vaccel_arg *vaccel_arg_array_raw(struct vaccel_arg_array *array);

// The lists that were there before arrays.
struct vaccel_arg_list {
	// Room, in arguments.
	uint32_t size;
	struct vaccel_arg *list;
	// Arguments that there are.
	int curr_idx;
	// 1 where the list frees an argument's memory.
	int *idcs_allocated_space;
};

#define VACCEL_ARG_DEPRECATED_ __attribute__((deprecated("use vaccel_arg_array")))

VACCEL_ARG_DEPRECATED_ struct vaccel_arg_list *vaccel_args_init(uint32_t size);
VACCEL_ARG_DEPRECATED_ int vaccel_add_serial_arg(struct vaccel_arg_list *args, void *buf, uint32_t size);
VACCEL_ARG_DEPRECATED_ int vaccel_add_nonserial_arg(struct vaccel_arg_list *args, void *buf, uint32_t type,
						    void *(*serializer)(void *, uint32_t *));
VACCEL_ARG_DEPRECATED_ int vaccel_expect_serial_arg(struct vaccel_arg_list *args, void *buf, uint32_t size);
VACCEL_ARG_DEPRECATED_ int vaccel_expect_nonserial_arg(struct vaccel_arg_list *args, uint32_t expected_size);
VACCEL_ARG_DEPRECATED_ void *vaccel_extract_serial_arg(struct vaccel_arg *args, int idx);
VACCEL_ARG_DEPRECATED_ void *vaccel_extract_nonserial_arg(struct vaccel_arg *args, int idx,
							  void *(*deserializer)(void *, uint32_t));
VACCEL_ARG_DEPRECATED_ int vaccel_write_serial_arg(struct vaccel_arg *args, int idx, void *buf);
VACCEL_ARG_DEPRECATED_ int vaccel_write_nonserial_arg(struct vaccel_arg *args, int idx, void *buf,
						      void *(*serializer)(void *, uint32_t *));
VACCEL_ARG_DEPRECATED_ int vaccel_delete_args(struct vaccel_arg_list *args);

#ifdef __cplusplus
}
#endif
