// Tensors, buffers, nodes and statuses, which own what they say they own.
#include "check.h"

#define TENSORS(NAME, RANK, DIM, TYPE)                                                              \
	static void NAME##_tensors(void)                                                            \
	{                                                                                           \
		DIM dims[2] = { 2, 3 };                                                             \
		struct vaccel_##NAME##_tensor tensor, *heap = NULL;                                 \
		char data[24];                                                                      \
		void *taken = NULL;                                                                 \
		size_t size = 0;                                                                    \
		WORKS(vaccel_##NAME##_tensor_init(&tensor, 2, dims, TYPE));                         \
		CHECK(tensor.nr_dims == 2 && tensor.dims != dims && tensor.dims[1] == 3);           \
		CHECK(!tensor.data && !tensor.size && !tensor.owned && tensor.data_type == TYPE);   \
		WORKS(vaccel_##NAME##_tensor_set_data(&tensor, data, sizeof(data)));                \
		CHECK(tensor.data == data && tensor.size == 24 && !tensor.owned);                   \
		WORKS(vaccel_##NAME##_tensor_take_data(&tensor, &taken, &size));                    \
		CHECK(taken == data && size == 24 && !tensor.data && !tensor.size);                 \
		WORKS(vaccel_##NAME##_tensor_set_data(&tensor, data, sizeof(data)));                \
		WORKS(vaccel_##NAME##_tensor_release(&tensor));                                     \
		CHECK(!tensor.dims && !tensor.data && !tensor.nr_dims);                             \
		WORKS(vaccel_##NAME##_tensor_init(&tensor, 3, NULL, TYPE));                         \
		CHECK(!tensor.dims[0] && !tensor.dims[2]);                                          \
		WORKS(vaccel_##NAME##_tensor_release(&tensor));                                     \
		WORKS(vaccel_##NAME##_tensor_new(&heap, 2, dims, TYPE));                            \
		WORKS(vaccel_##NAME##_tensor_delete(heap));                                         \
		WORKS(vaccel_##NAME##_tensor_allocate(&heap, 2, dims, TYPE, 24));                   \
		CHECK(heap->owned && heap->size == 24 && !memcmp(heap->data, (char[24]){ 0 }, 24)); \
		WORKS(vaccel_##NAME##_tensor_take_data(heap, &taken, &size));                       \
		CHECK(!heap->owned && size == 24);                                                  \
		free(taken);                                                                        \
		WORKS(vaccel_##NAME##_tensor_delete(heap));                                         \
		WORKS(vaccel_##NAME##_tensor_allocate(&heap, 2, dims, TYPE, 8));                    \
		taken = heap->data;                                                                 \
		WORKS(vaccel_##NAME##_tensor_set_data(heap, data, 24));                             \
		free(taken);                                                                        \
		WORKS(vaccel_##NAME##_tensor_delete(heap));                                         \
		WORKS(vaccel_##NAME##_tensor_allocate(&heap, 2, dims, TYPE, 0));                    \
		CHECK(!heap->data && !heap->owned);                                                 \
		WORKS(vaccel_##NAME##_tensor_delete(heap));                                         \
		RETURNS(VACCEL_ENOMEM, vaccel_##NAME##_tensor_allocate(&heap, 2, dims, TYPE, (size_t)1 << 60)); \
		REFUSED(vaccel_##NAME##_tensor_init(&tensor, 0, dims, TYPE));                       \
		REFUSED(vaccel_##NAME##_tensor_init(&tensor, -1, dims, TYPE));                      \
		REFUSED(vaccel_##NAME##_tensor_init(NULL, 2, dims, TYPE));                          \
		REFUSED(vaccel_##NAME##_tensor_new(NULL, 2, dims, TYPE));                           \
		REFUSED(vaccel_##NAME##_tensor_new(&heap, 0, dims, TYPE));                          \
		REFUSED(vaccel_##NAME##_tensor_allocate(NULL, 2, dims, TYPE, 8));                   \
		REFUSED(vaccel_##NAME##_tensor_release(NULL));                                      \
		REFUSED(vaccel_##NAME##_tensor_delete(NULL));                                       \
		REFUSED(vaccel_##NAME##_tensor_set_data(NULL, data, 24));                           \
		REFUSED(vaccel_##NAME##_tensor_take_data(NULL, &taken, &size));                     \
		WORKS(vaccel_##NAME##_tensor_new(&heap, 2, dims, TYPE));                            \
		REFUSED(vaccel_##NAME##_tensor_take_data(heap, NULL, &size));                       \
		REFUSED(vaccel_##NAME##_tensor_take_data(heap, &taken, NULL));                      \
		WORKS(vaccel_##NAME##_tensor_delete(heap));                                         \
	}

TENSORS(tf, int, int64_t, VACCEL_TF_FLOAT)
TENSORS(tflite, int, int32_t, VACCEL_TFLITE_FLOAT32)
TENSORS(torch, int64_t, int64_t, VACCEL_TORCH_FLOAT)

#define BUFFERS(NAME)                                                            \
	static void NAME##_buffers(void)                                         \
	{                                                                        \
		struct vaccel_##NAME##_buffer buffer, *heap = NULL;              \
		void *data = NULL;                                               \
		size_t size = 0;                                                 \
		WORKS(vaccel_##NAME##_buffer_init(&buffer, malloc(4), 4));       \
		WORKS(vaccel_##NAME##_buffer_release(&buffer));                  \
		CHECK(!buffer.data && !buffer.size);                             \
		WORKS(vaccel_##NAME##_buffer_new(&heap, malloc(4), 4));          \
		WORKS(vaccel_##NAME##_buffer_take_data(heap, &data, &size));     \
		CHECK(data && size == 4 && !heap->data);                         \
		free(data);                                                      \
		WORKS(vaccel_##NAME##_buffer_delete(heap));                      \
		WORKS(vaccel_##NAME##_buffer_new(&heap, NULL, 0));               \
		REFUSED(vaccel_##NAME##_buffer_take_data(heap, NULL, &size));    \
		REFUSED(vaccel_##NAME##_buffer_take_data(heap, &data, NULL));    \
		WORKS(vaccel_##NAME##_buffer_delete(heap));                      \
		REFUSED(vaccel_##NAME##_buffer_init(NULL, NULL, 0));             \
		REFUSED(vaccel_##NAME##_buffer_new(NULL, NULL, 0));              \
		REFUSED(vaccel_##NAME##_buffer_release(NULL));                   \
		REFUSED(vaccel_##NAME##_buffer_delete(NULL));                    \
		REFUSED(vaccel_##NAME##_buffer_take_data(NULL, &data, &size));   \
	}

BUFFERS(tf)
BUFFERS(torch)

int main(void)
{
	tf_tensors();
	tflite_tensors();
	torch_tensors();
	tf_buffers();
	torch_buffers();

	struct vaccel_tf_node node, *heap_node = NULL;
	WORKS(vaccel_tf_node_init(&node, "input", 3));
	CHECK(!strcmp(node.name, "input") && node.id == 3);
	WORKS(vaccel_tf_node_release(&node));
	CHECK(!node.name && node.id == -1);
	WORKS(vaccel_tf_node_new(&heap_node, "output", 0));
	WORKS(vaccel_tf_node_delete(heap_node));
	REFUSED(vaccel_tf_node_init(&node, NULL, 0));
	REFUSED(vaccel_tf_node_init(NULL, "a", 0));
	REFUSED(vaccel_tf_node_new(NULL, "a", 0));
	REFUSED(vaccel_tf_node_new(&heap_node, NULL, 0));
	REFUSED(vaccel_tf_node_release(NULL));
	REFUSED(vaccel_tf_node_delete(NULL));

	struct vaccel_tf_status status, *heap_status = NULL;
	WORKS(vaccel_tf_status_init(&status, 3, "wrong"));
	CHECK(status.code == 3 && !strcmp(status.message, "wrong"));
	WORKS(vaccel_tf_status_release(&status));
	CHECK(!status.code && !status.message);
	WORKS(vaccel_tf_status_new(&heap_status, 0, "fine"));
	WORKS(vaccel_tf_status_delete(heap_status));
	REFUSED(vaccel_tf_status_init(&status, 0, NULL));
	REFUSED(vaccel_tf_status_init(NULL, 0, "a"));
	REFUSED(vaccel_tf_status_new(NULL, 0, "a"));
	REFUSED(vaccel_tf_status_new(&heap_status, 0, NULL));
	REFUSED(vaccel_tf_status_release(NULL));
	REFUSED(vaccel_tf_status_delete(NULL));
	return 0;
}
