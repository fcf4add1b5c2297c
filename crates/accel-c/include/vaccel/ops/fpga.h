// SPDX-License-Identifier: Apache-2.0
// Arrays and square matrices, as demonstrators of FPGAs had them. Deprecated.
#pragma once

#include "vaccel/session.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VACCEL_FPGA_DEPRECATED_ __attribute__((deprecated("FPGA operations will go")))

VACCEL_FPGA_DEPRECATED_ int vaccel_fpga_arraycopy(struct vaccel_session *sess, int a[], int out_a[], size_t len_a);
// Square matrices of len_a elements.
VACCEL_FPGA_DEPRECATED_ int vaccel_fpga_mmult(struct vaccel_session *sess, float a[], float b[], float c[],
					      size_t len_a);
VACCEL_FPGA_DEPRECATED_ int vaccel_fpga_parallel(struct vaccel_session *sess, float a[], float b[],
						 float add_output[], float mult_output[], size_t len_a);
VACCEL_FPGA_DEPRECATED_ int vaccel_fpga_vadd(struct vaccel_session *sess, float a[], float b[], float c[],
					     size_t len_a, size_t len_b);

#ifdef __cplusplus
}
#endif
