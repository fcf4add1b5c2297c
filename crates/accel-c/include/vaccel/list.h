// SPDX-License-Identifier: Apache-2.0
// The links of the doubly linked lists that are part of sessions, resources and plugins. The library keeps them.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define LIST_ENTRY_INIT(name) { &(name), &(name) }

struct vaccel_list_entry {
	struct vaccel_list_entry *next;
	struct vaccel_list_entry *prev;
};
