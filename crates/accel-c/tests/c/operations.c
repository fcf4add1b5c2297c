// Every operation, directly and generically, on a plugin library that shows what arrived.
#include "check.h"

static struct vaccel_session session;
static struct vaccel_resource model, library;

static int generic(vaccel_op_type_t op, struct vaccel_arg_array *read, struct vaccel_arg_array *write)
{
	struct vaccel_arg_array all;
	uint8_t number = (uint8_t)op;
	WORKS(vaccel_arg_array_init(&all, 1));
	WORKS(vaccel_arg_array_add_uint8(&all, &number));
	if (read)
		WORKS(vaccel_arg_array_add_all(&all, read, false));
	int result = vaccel_genop(&session, all.args, (int)all.count, write ? write->args : NULL, write ? (int)write->count : 0);
	WORKS(vaccel_arg_array_release(&all));
	return result;
}

#define ARRAYS(read, write)                                  \
	struct vaccel_arg_array read, write;                 \
	WORKS(vaccel_arg_array_init(&read, 1));              \
	WORKS(vaccel_arg_array_init(&write, 1));
#define END(read, write)                                     \
	WORKS(vaccel_arg_array_release(&read));              \
	WORKS(vaccel_arg_array_release(&write));

static void calls(void)
{
	int32_t in = 5, out = 0;
	char name[] = "library", symbol[] = "symbol";
	struct vaccel_arg read = { &in, 4, VACCEL_ARG_INT32, 0, false }, write = { &out, 4, VACCEL_ARG_INT32, 0, false };
	WORKS(vaccel_noop(&session));
	WORKS(vaccel_exec(&session, name, symbol, &read, 1, &write, 1));
	CHECK(out == 5);
	RETURNS(VACCEL_ENOENT, vaccel_exec(&session, "other", symbol, &read, 1, &write, 1));
	in = 6;
	WORKS(vaccel_exec_with_resource(&session, &library, symbol, &read, 1, &write, 1));
	CHECK(out == 6);
	WORKS(vaccel_exec(&session, name, symbol, NULL, 0, NULL, 0));
	REFUSED(vaccel_exec(&session, NULL, symbol, &read, 1, &write, 1));
	REFUSED(vaccel_exec(&session, name, NULL, &read, 1, &write, 1));
	REFUSED(vaccel_exec(&session, name, symbol, NULL, 1, &write, 1));
	REFUSED(vaccel_exec(&session, name, symbol, &read, 1, NULL, 1));
	REFUSED(vaccel_exec(NULL, name, symbol, &read, 1, &write, 1));
	REFUSED(vaccel_exec_with_resource(&session, &model, symbol, &read, 1, &write, 1));
	REFUSED(vaccel_exec_with_resource(&session, NULL, symbol, &read, 1, &write, 1));
	REFUSED(vaccel_exec_with_resource(&session, &library, NULL, &read, 1, &write, 1));
	REFUSED(vaccel_exec_with_resource(NULL, &library, symbol, &read, 1, &write, 1));
	struct vaccel_resource stranger;
	WORKS(vaccel_resource_init_from_buf(&stranger, "x", 1, VACCEL_RESOURCE_LIB, NULL, true));
	RETURNS(VACCEL_EPERM, vaccel_exec_with_resource(&session, &stranger, symbol, &read, 1, &write, 1));
	WORKS(vaccel_resource_release(&stranger));
	in = 7;
	WORKS(vaccel_opencv_unpack(&session, &read, 1, &write, 1));
	CHECK(out == 7);
	REFUSED(vaccel_opencv_unpack(&session, &read, -1, &write, 1));
	REFUSED(vaccel_opencv_unpack(&session, NULL, 1, &write, 1));
	REFUSED(vaccel_opencv_unpack(NULL, &read, 1, &write, 1));

	ARRAYS(reads, writes)
	WORKS(vaccel_arg_array_add_string(&reads, name));
	REFUSED(generic(VACCEL_OP_EXEC, &reads, &writes));
	WORKS(vaccel_arg_array_add_string(&reads, symbol));
	in = 8;
	WORKS(vaccel_arg_array_add_int32(&reads, &in));
	WORKS(vaccel_arg_array_add_int32(&writes, &out));
	WORKS(generic(VACCEL_OP_EXEC, &reads, &writes));
	CHECK(out == 8);
	int64_t id = library.id;
	struct vaccel_arg_array with;
	WORKS(vaccel_arg_array_init(&with, 1));
	WORKS(vaccel_arg_array_add_int64(&with, &id));
	WORKS(vaccel_arg_array_add_range(&with, &reads, 1, 2, false));
	in = 9;
	WORKS(generic(VACCEL_OP_EXEC_WITH_RESOURCE, &with, &writes));
	CHECK(out == 9);
	id = 123456;
	RETURNS(VACCEL_ENOENT, generic(VACCEL_OP_EXEC_WITH_RESOURCE, &with, &writes));
	REFUSED(generic(VACCEL_OP_EXEC_WITH_RESOURCE, &reads, &writes));
	REFUSED(generic(VACCEL_OP_EXEC, &with, &writes));
	WORKS(vaccel_arg_array_release(&with));
	END(reads, writes)
	ARRAYS(one, other)
	in = 10;
	WORKS(vaccel_arg_array_add_int32(&one, &in));
	WORKS(vaccel_arg_array_add_int32(&other, &out));
	WORKS(generic(VACCEL_OP_OPENCV, &one, &other));
	CHECK(out == 10);
	REFUSED(generic(VACCEL_OP_NOOP, &one, NULL));
	WORKS(generic(VACCEL_OP_NOOP, NULL, NULL));
	REFUSED(generic(VACCEL_OP_MAX, NULL, NULL));
	REFUSED(generic((vaccel_op_type_t)255, NULL, NULL));
	RETURNS(VACCEL_ENOTSUP, generic(VACCEL_OP_TF_MODEL_RUN, &one, &other));
	RETURNS(VACCEL_ENOTSUP, generic(VACCEL_OP_TORCH_SGEMM, &one, &other));
	REFUSED(vaccel_genop(&session, one.args, 1, NULL, 0));
	REFUSED(vaccel_genop(&session, NULL, 0, NULL, 0));
	REFUSED(vaccel_genop(&session, NULL, 1, NULL, 0));
	REFUSED(vaccel_genop(&session, one.args, -1, NULL, 0));
	REFUSED(vaccel_genop(&session, one.args, 1, NULL, -1));
	uint8_t number = VACCEL_OP_NOOP;
	struct vaccel_arg noop = { &number, 1, VACCEL_ARG_UINT8, 0, false };
	REFUSED(vaccel_genop(NULL, &noop, 1, NULL, 0));
	END(one, other)
}

static void pictures(void)
{
	unsigned char text[64] = { 0 }, name[64] = { 0 }, tiny[6] = { 0 };
	const char picture[] = "picture";
	WORKS(vaccel_image_classification(&session, picture, text, name, 7, sizeof(text), sizeof(name)));
	CHECK(!strcmp((char *)text, "classified 7 bytes, p") && !strcmp((char *)name, "named"));
	WORKS(vaccel_image_classification(&session, picture, NULL, name, 7, 0, sizeof(name)));
	WORKS(vaccel_image_classification(&session, picture, text, NULL, 7, sizeof(text), 0));
	WORKS(vaccel_image_classification(&session, picture, tiny, NULL, 7, sizeof(tiny), 0));
	CHECK(!strcmp((char *)tiny, "class"));
	WORKS(vaccel_image_detection(&session, picture, name, 7, sizeof(name)));
	CHECK(!strcmp((char *)name, "detect 7 p"));
	WORKS(vaccel_image_segmentation(&session, picture, name, 7, sizeof(name)));
	CHECK(!strcmp((char *)name, "segment 7 p"));
	WORKS(vaccel_image_pose(&session, picture, name, 7, sizeof(name)));
	CHECK(!strcmp((char *)name, "pose 7 p"));
	WORKS(vaccel_image_depth(&session, picture, name, 7, sizeof(name)));
	CHECK(!strcmp((char *)name, "depth 7 p"));
	REFUSED(vaccel_image_classification(&session, NULL, text, name, 7, sizeof(text), sizeof(name)));
	REFUSED(vaccel_image_classification(&session, picture, text, name, 0, sizeof(text), sizeof(name)));
	REFUSED(vaccel_image_classification(NULL, picture, text, name, 7, sizeof(text), sizeof(name)));
	REFUSED(vaccel_image_detection(NULL, picture, name, 7, sizeof(name)));
	REFUSED(vaccel_image_segmentation(&session, NULL, name, 7, sizeof(name)));
	REFUSED(vaccel_image_pose(&session, picture, name, 0, sizeof(name)));
	REFUSED(vaccel_image_depth(NULL, NULL, NULL, 7, 0));

	ARRAYS(read, write)
	WORKS(vaccel_arg_array_add_buffer(&read, (void *)picture, 7));
	WORKS(vaccel_arg_array_add_uchar_array(&write, name, sizeof(name)));
	WORKS(generic(VACCEL_OP_IMAGE_DETECT, &read, &write));
	CHECK(!strcmp((char *)name, "detect 7 p"));
	WORKS(generic(VACCEL_OP_IMAGE_SEGMENT, &read, &write));
	WORKS(generic(VACCEL_OP_IMAGE_POSE, &read, &write));
	WORKS(generic(VACCEL_OP_IMAGE_DEPTH, &read, &write));
	CHECK(!strcmp((char *)name, "depth 7 p"));
	REFUSED(generic(VACCEL_OP_IMAGE_CLASSIFY, &read, &write));
	WORKS(vaccel_arg_array_add_uchar_array(&write, text, sizeof(text)));
	WORKS(generic(VACCEL_OP_IMAGE_CLASSIFY, &read, &write));
	CHECK(!strcmp((char *)text, "classified 7 bytes, p") && !strcmp((char *)name, "named"));
	REFUSED(generic(VACCEL_OP_IMAGE_DETECT, &read, &write));
	REFUSED(generic(VACCEL_OP_IMAGE_CLASSIFY, &write, &write));
	REFUSED(generic(VACCEL_OP_IMAGE_CLASSIFY, NULL, NULL));
	END(read, write)
}

static void arrays(void)
{
	int from[3] = { 1, 2, 3 }, to[3] = { 0 };
	float a[4] = { 2, 3, 4, 5 }, b[4] = { 6, 7, 8, 9 }, c[4] = { 0 }, d[4] = { 0 };
	double in[2] = { 4, 5 }, out[2] = { 0 }, min = 0, max = 0;
	WORKS(vaccel_fpga_arraycopy(&session, from, to, 3));
	CHECK(!memcmp(from, to, sizeof(to)));
	WORKS(vaccel_fpga_mmult(&session, a, b, c, 4));
	CHECK(c[0] == 16);
	WORKS(vaccel_fpga_parallel(&session, a, b, c, d, 4));
	CHECK(c[0] == 8 && d[0] == 12);
	WORKS(vaccel_fpga_vadd(&session, a, b, c, 4, 4));
	CHECK(c[3] == 14);
	WORKS(vaccel_minmax(&session, in, 2, -1, 10, out, &min, &max));
	CHECK(out[0] == 4 && min == -1 && max == 12);
	REFUSED(vaccel_fpga_vadd(&session, a, b, c, 4, 3));
	REFUSED(vaccel_fpga_arraycopy(&session, NULL, to, 3));
	REFUSED(vaccel_fpga_arraycopy(NULL, from, to, 3));
	REFUSED(vaccel_fpga_mmult(&session, a, NULL, c, 4));
	REFUSED(vaccel_fpga_parallel(&session, a, b, c, NULL, 4));
	REFUSED(vaccel_fpga_vadd(NULL, a, b, c, 4, 4));
	REFUSED(vaccel_minmax(&session, in, -2, -1, 10, out, &min, &max));
	REFUSED(vaccel_minmax(&session, in, 2, -1, 10, out, NULL, &max));
	REFUSED(vaccel_minmax(NULL, in, 2, -1, 10, out, &min, &max));

	{
		ARRAYS(read, write)
		WORKS(vaccel_arg_array_add_int32_array(&read, from, 3));
		WORKS(vaccel_arg_array_add_int32_array(&write, to, 3));
		memset(to, 0, sizeof(to));
		WORKS(generic(VACCEL_OP_FPGA_ARRAYCOPY, &read, &write));
		CHECK(to[2] == 3);
		write.args[0].size = 8;
		REFUSED(generic(VACCEL_OP_FPGA_ARRAYCOPY, &read, &write));
		END(read, write)
	}
	{
		ARRAYS(read, write)
		WORKS(vaccel_arg_array_add_float_array(&read, a, 4));
		WORKS(vaccel_arg_array_add_float_array(&write, c, 4));
		REFUSED(generic(VACCEL_OP_FPGA_MMULT, &read, &write));
		WORKS(vaccel_arg_array_add_float_array(&read, b, 4));
		WORKS(generic(VACCEL_OP_FPGA_MMULT, &read, &write));
		CHECK(c[0] == 16);
		WORKS(generic(VACCEL_OP_FPGA_VECTORADD, &read, &write));
		CHECK(c[0] == 8);
		REFUSED(generic(VACCEL_OP_FPGA_PARALLEL, &read, &write));
		WORKS(vaccel_arg_array_add_float_array(&write, d, 4));
		WORKS(generic(VACCEL_OP_FPGA_PARALLEL, &read, &write));
		CHECK(d[0] == 12);
		// Lengths that lie, one way or another.
		read.args[1].size = 12;
		REFUSED(generic(VACCEL_OP_FPGA_PARALLEL, &read, &write));
		read.args[1].size = 16;
		write.args[1].size = 15;
		REFUSED(generic(VACCEL_OP_FPGA_PARALLEL, &read, &write));
		END(read, write)
	}
	{
		int count = 2, low = -1, high = 10;
		ARRAYS(read, write)
		WORKS(vaccel_arg_array_add_double_array(&read, in, 2));
		WORKS(vaccel_arg_array_add_int32(&read, &count));
		WORKS(vaccel_arg_array_add_int32(&read, &low));
		WORKS(vaccel_arg_array_add_int32(&read, &high));
		WORKS(vaccel_arg_array_add_double_array(&write, out, 2));
		WORKS(vaccel_arg_array_add_double(&write, &min));
		WORKS(vaccel_arg_array_add_double(&write, &max));
		WORKS(generic(VACCEL_OP_MINMAX, &read, &write));
		CHECK(max == 12);
		count = 3;
		REFUSED(generic(VACCEL_OP_MINMAX, &read, &write));
		count = -1;
		REFUSED(generic(VACCEL_OP_MINMAX, &read, &write));
		END(read, write)
	}
}

static void matrices(void)
{
	float a[2] = { 1, 2 }, b[2] = { 3, 4 }, c[4] = { 0 }, alpha = 0.5, beta = 0.25;
	int64_t m = 2, n = 2, k = 1, lda = 1, ldb = 2, ldc = 2;
	WORKS(vaccel_sgemm(&session, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc));
	CHECK(c[0] == 221 + 0.75f + 4 + 5);
	REFUSED(vaccel_sgemm(&session, -2, n, k, alpha, a, lda, b, ldb, beta, c, ldc));
	REFUSED(vaccel_sgemm(&session, m, n, k, alpha, NULL, lda, b, ldb, beta, c, ldc));
	REFUSED(vaccel_sgemm(NULL, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc));
	ARRAYS(read, write)
	WORKS(vaccel_arg_array_add_int64(&read, &m));
	WORKS(vaccel_arg_array_add_int64(&read, &n));
	WORKS(vaccel_arg_array_add_int64(&read, &k));
	WORKS(vaccel_arg_array_add_float(&read, &alpha));
	WORKS(vaccel_arg_array_add_float_array(&read, a, 2));
	WORKS(vaccel_arg_array_add_int64(&read, &lda));
	WORKS(vaccel_arg_array_add_float_array(&read, b, 2));
	WORKS(vaccel_arg_array_add_int64(&read, &ldb));
	WORKS(vaccel_arg_array_add_float(&read, &beta));
	WORKS(vaccel_arg_array_add_float_array(&write, c, 4));
	REFUSED(generic(VACCEL_OP_BLAS_SGEMM, &read, &write));
	WORKS(vaccel_arg_array_add_int64(&read, &ldc));
	c[0] = 0;
	WORKS(generic(VACCEL_OP_BLAS_SGEMM, &read, &write));
	CHECK(c[0] == 221 + 0.75f + 4 + 5);
	m = (int64_t)1 << 62;
	REFUSED(generic(VACCEL_OP_BLAS_SGEMM, &read, &write));
	m = -1;
	REFUSED(generic(VACCEL_OP_BLAS_SGEMM, &read, &write));
	m = 3;
	REFUSED(generic(VACCEL_OP_BLAS_SGEMM, &read, &write));
	END(read, write)

	struct vaccel_torch_tensor *x = NULL, *out = NULL;
	WORKS(vaccel_torch_tensor_new(&x, 1, (int64_t[]){ 1 }, VACCEL_TORCH_FLOAT));
	WORKS(vaccel_torch_sgemm(&session, &x, &x, &x, 1, 2, 3, &out));
	CHECK(out == x);
	REFUSED(vaccel_torch_sgemm(&session, NULL, &x, &x, 1, 2, 3, &out));
	REFUSED(vaccel_torch_sgemm(&session, &x, &x, &x, 1, 2, 3, NULL));
	REFUSED(vaccel_torch_sgemm(NULL, &x, &x, &x, 1, 2, 3, &out));
	WORKS(vaccel_torch_tensor_delete(x));
}

static void inference(void)
{
	struct vaccel_tf_status status;
	struct vaccel_tf_node in_node = { "in", 1 }, out_node = { "out", 2 };
	struct vaccel_tf_buffer options = { "opt", 3 };
	struct vaccel_tf_tensor *in = NULL, *out = NULL;
	float numbers[2] = { 1.5, 2.5 };
	WORKS(vaccel_tf_model_load(&session, &model, &status));
	CHECK(!strcmp(status.message, "model"));
	WORKS(vaccel_tf_status_release(&status));
	WORKS(vaccel_tf_tensor_new(&in, 2, (int64_t[]){ 1, 2 }, VACCEL_TF_FLOAT));
	WORKS(vaccel_tf_tensor_set_data(in, numbers, sizeof(numbers)));
	WORKS(vaccel_tf_model_run(&session, &model, &options, &in_node, &in, 1, &out_node, &out, 1, &status));
	CHECK(out && out->size == 8 && ((float *)out->data)[1] == 2.5f && out->dims[1] == 2);
	WORKS(vaccel_tf_status_release(&status));
	WORKS(vaccel_tf_tensor_delete(out));
	REFUSED(vaccel_tf_model_run(&session, &model, &options, NULL, &in, 1, &out_node, &out, 1, &status));
	REFUSED(vaccel_tf_model_run(&session, &model, &options, &in_node, NULL, 1, &out_node, &out, 1, &status));
	REFUSED(vaccel_tf_model_run(&session, &model, &options, &in_node, &in, -1, &out_node, &out, 1, &status));
	REFUSED(vaccel_tf_model_run(&session, &model, &options, &in_node, &in, 1, &out_node, NULL, 1, &status));
	REFUSED(vaccel_tf_model_run(NULL, &model, &options, &in_node, &in, 1, &out_node, &out, 1, &status));
	WORKS(vaccel_tf_tensor_delete(in));
	WORKS(vaccel_tf_model_unload(&session, &model, &status));
	WORKS(vaccel_tf_status_release(&status));
	REFUSED(vaccel_tf_model_load(NULL, &model, &status));
	REFUSED(vaccel_tf_model_load(&session, NULL, &status));
	REFUSED(vaccel_tf_model_load(&session, &library, &status));
	REFUSED(vaccel_tf_model_unload(NULL, NULL, NULL));

	struct vaccel_tflite_tensor *lite_in = NULL, *lite_out = NULL;
	uint8_t code = 0;
	WORKS(vaccel_tflite_model_load(&session, &model));
	WORKS(vaccel_tflite_tensor_new(&lite_in, 1, (int32_t[]){ 2 }, VACCEL_TFLITE_FLOAT32));
	WORKS(vaccel_tflite_tensor_set_data(lite_in, numbers, sizeof(numbers)));
	WORKS(vaccel_tflite_model_run(&session, &model, &lite_in, 1, &lite_out, 1, &code));
	CHECK(code == 17 && ((float *)lite_out->data)[0] == 1.5f);
	WORKS(vaccel_tflite_tensor_delete(lite_out));
	REFUSED(vaccel_tflite_model_run(&session, &model, NULL, 1, &lite_out, 1, &code));
	REFUSED(vaccel_tflite_model_run(&session, &model, &lite_in, 1, &lite_out, -1, &code));
	REFUSED(vaccel_tflite_model_run(&session, NULL, &lite_in, 1, &lite_out, 1, &code));
	WORKS(vaccel_tflite_tensor_delete(lite_in));
	WORKS(vaccel_tflite_model_unload(&session, &model));
	REFUSED(vaccel_tflite_model_load(&session, &library));
	REFUSED(vaccel_tflite_model_unload(NULL, &model));

	struct vaccel_torch_tensor *torch_in = NULL, *torch_out = NULL;
	WORKS(vaccel_torch_model_load(&session, &model));
	WORKS(vaccel_torch_tensor_new(&torch_in, 1, (int64_t[]){ 2 }, VACCEL_TORCH_FLOAT));
	WORKS(vaccel_torch_tensor_set_data(torch_in, numbers, sizeof(numbers)));
	WORKS(vaccel_torch_model_run(&session, &model, NULL, &torch_in, 1, &torch_out, 1));
	CHECK(((float *)torch_out->data)[1] == 2.5f);
	WORKS(vaccel_torch_tensor_delete(torch_out));
	REFUSED(vaccel_torch_model_run(&session, &library, NULL, &torch_in, 1, &torch_out, 1));
	REFUSED(vaccel_torch_model_run(&session, &model, NULL, NULL, 1, &torch_out, 1));
	REFUSED(vaccel_torch_model_run(NULL, &model, NULL, &torch_in, 1, &torch_out, 1));
	WORKS(vaccel_torch_tensor_delete(torch_in));
	REFUSED(vaccel_torch_model_load(&session, NULL));

	struct vaccel_resource stranger;
	WORKS(vaccel_resource_init_from_buf(&stranger, "x", 1, VACCEL_RESOURCE_MODEL, NULL, true));
	RETURNS(VACCEL_EPERM, vaccel_tf_model_load(&session, &stranger, &status));
	RETURNS(VACCEL_EPERM, vaccel_tflite_model_load(&session, &stranger));
	RETURNS(VACCEL_EPERM, vaccel_torch_model_load(&session, &stranger));
	WORKS(vaccel_resource_release(&stranger));
}

int main(int count, char **values)
{
	arguments(count, values);
	start_with(in(plugins, "libthird.so"));
	WORKS(vaccel_session_init(&session, 0));
	REFUSED(vaccel_noop(NULL));
	unsigned char text[8];
	RETURNS(VACCEL_ENOENT, vaccel_image_classification(&session, "p", text, NULL, 1, 8, 0));
	WORKS(vaccel_resource_init(&model, write_file("model", "weights", 7), VACCEL_RESOURCE_MODEL));
	WORKS(vaccel_resource_init(&library, write_file("lib.so", "code", 4), VACCEL_RESOURCE_LIB));
	WORKS(vaccel_resource_register(&model, &session));
	WORKS(vaccel_resource_register(&library, &session));
	calls();
	pictures();
	arrays();
	matrices();
	inference();
	WORKS(vaccel_session_release(&session));
	WORKS(vaccel_resource_release(&model));
	WORKS(vaccel_resource_release(&library));
	return 0;
}
