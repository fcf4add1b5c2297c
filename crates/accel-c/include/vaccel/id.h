// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

// What sessions and resources are called: from 1 up, never used again in a process. 0 is none.
typedef int64_t vaccel_id_t;
