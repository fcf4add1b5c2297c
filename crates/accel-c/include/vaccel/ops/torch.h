// SPDX-License-Identifier: Apache-2.0
// PyTorch's scripted models.
#pragma once

#include "vaccel/resource.h"
#include "vaccel/session.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum vaccel_torch_data_type {
	VACCEL_TORCH_BYTE = 1,
	VACCEL_TORCH_CHAR = 2,
	VACCEL_TORCH_SHORT = 3,
	VACCEL_TORCH_INT = 4,
	VACCEL_TORCH_LONG = 5,
	VACCEL_TORCH_HALF = 6,
	VACCEL_TORCH_FLOAT = 7
};

// Bytes from malloc(), which go with the buffer.
struct vaccel_torch_buffer {
	char *data;
	size_t size;
};

int vaccel_torch_buffer_init(struct vaccel_torch_buffer *buffer, char *data, size_t size);
int vaccel_torch_buffer_release(struct vaccel_torch_buffer *buffer);
int vaccel_torch_buffer_new(struct vaccel_torch_buffer **buffer, char *data, size_t size);
int vaccel_torch_buffer_delete(struct vaccel_torch_buffer *buffer);
// Hands the bytes to the caller.
int vaccel_torch_buffer_take_data(struct vaccel_torch_buffer *buffer, void **data, size_t *size);

struct vaccel_torch_tensor {
	void *data;
	size_t size;
	// Whether `data`, from malloc(), goes with the tensor.
	bool owned;
	int64_t nr_dims;
	int64_t *dims;
	enum vaccel_torch_data_type data_type;
};

int vaccel_torch_tensor_init(struct vaccel_torch_tensor *tensor, int64_t nr_dims, const int64_t *dims,
			     enum vaccel_torch_data_type type);
int vaccel_torch_tensor_release(struct vaccel_torch_tensor *tensor);
int vaccel_torch_tensor_new(struct vaccel_torch_tensor **tensor, int64_t nr_dims, const int64_t *dims,
			    enum vaccel_torch_data_type type);
// A tensor with `total_size` zeroed bytes of its own.
int vaccel_torch_tensor_allocate(struct vaccel_torch_tensor **tensor, int64_t nr_dims, const int64_t *dims,
				 enum vaccel_torch_data_type type, size_t total_size);
int vaccel_torch_tensor_delete(struct vaccel_torch_tensor *tensor);
// Lends the tensor memory of the caller's.
int vaccel_torch_tensor_set_data(struct vaccel_torch_tensor *tensor, void *data, size_t size);
int vaccel_torch_tensor_take_data(struct vaccel_torch_tensor *tensor, void **data, size_t *size);

int vaccel_torch_model_load(struct vaccel_session *sess, struct vaccel_resource *model);
// The output tensors are new; the caller deletes them.
int vaccel_torch_model_run(struct vaccel_session *sess, struct vaccel_resource *model,
			   const struct vaccel_torch_buffer *run_options, struct vaccel_torch_tensor *const *inputs,
			   int nr_inputs, struct vaccel_torch_tensor **outputs, int nr_outputs);

__attribute__((deprecated("use vaccel_sgemm()"))) int
vaccel_torch_sgemm(struct vaccel_session *sess, struct vaccel_torch_tensor **in_A, struct vaccel_torch_tensor **in_B,
		   struct vaccel_torch_tensor **in_C, int M, int N, int K, struct vaccel_torch_tensor **out);

#ifdef __cplusplus
}
#endif
