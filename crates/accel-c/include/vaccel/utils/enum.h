// SPDX-License-Identifier: Apache-2.0
// Enumerations with names: from one list of (name, value), the type and the functions that name its values.
#pragma once

#include "str.h"
#include <stdlib.h>

// Room for the name of any value.
enum { VACCEL_ENUM_STR_MAX = 128 };

#define VACCEL_ENUM_CONSTANT_(PREFIX, NAME, VALUE) PREFIX##_##NAME = VALUE,
#define VACCEL_ENUM_NAME_(PREFIX, NAME, VALUE) \
	case PREFIX##_##NAME:                  \
		return #PREFIX "_" #NAME;
#define VACCEL_ENUM_BASE_NAME_(PREFIX, NAME, VALUE) \
	case PREFIX##_##NAME:                       \
		return #NAME;

// Defines <name>_t with a constant <PREFIX>_<NAME> for each item and <PREFIX>_MAX after them;
// <name>_to_str(), "VACCEL_OP_NOOP"; <name>_to_base_str(), "NOOP"; and <name>_name(), "noop".
#define VACCEL_ENUM_DEFINE(name, PREFIX, LIST)                                              \
	typedef enum { LIST(VACCEL_ENUM_CONSTANT_, PREFIX) PREFIX##_MAX } name##_t;         \
                                                                                            \
	static inline const char *name##_to_str(name##_t value)                             \
	{                                                                                   \
		switch (value) {                                                            \
			LIST(VACCEL_ENUM_NAME_, PREFIX)                                     \
		default:                                                                    \
			return #PREFIX "_MAX";                                              \
		}                                                                           \
	}                                                                                   \
                                                                                            \
	static inline const char *name##_to_base_str(name##_t value)                        \
	{                                                                                   \
		switch (value) {                                                            \
			LIST(VACCEL_ENUM_BASE_NAME_, PREFIX)                                \
		default:                                                                    \
			return "MAX";                                                       \
		}                                                                           \
	}                                                                                   \
                                                                                            \
	static inline char *name##_name(name##_t value, char *lower, size_t size)           \
	{                                                                                   \
		return vaccel_str_to_lower(name##_to_base_str(value), lower, size, NULL) ?  \
			       NULL :                                                       \
			       lower;                                                       \
	}
