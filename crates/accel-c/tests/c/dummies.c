// Every operation on the plugin noop: what vAccel's plugin of that name gives, so that programs can be tried without models.
#include "check.h"

int main(int count, char **values)
{
	arguments(count, values);
	// Or at an agent that has them.
	const char *plugins = getenv("TEST_PLUGINS");
	start_with(plugins ? plugins : "libvaccel-noop.so");
	struct vaccel_session session;
	struct vaccel_resource model, library;
	unsigned char text[64], name[64];
	WORKS(vaccel_session_init(&session, 0));
	CHECK(!strcmp(session.plugin->info->name, "kernlet"));
	WORKS(vaccel_resource_init(&model, write_file("model.pt", "weights", 7), VACCEL_RESOURCE_MODEL));
	WORKS(vaccel_resource_init(&library, write_file("lib.so", "code", 4), VACCEL_RESOURCE_LIB));
	WORKS(vaccel_resource_register(&model, &session));
	WORKS(vaccel_resource_register(&library, &session));

	WORKS(vaccel_noop(&session));
	WORKS(vaccel_image_classification(&session, "p", text, name, 1, sizeof(text), sizeof(name)));
	CHECK(!strcmp((char *)text, "This is a dummy classification tag!"));
	WORKS(vaccel_image_detection(&session, "p", name, 1, sizeof(name)));
	CHECK(!strcmp((char *)name, "This is a dummy imgname!"));
	WORKS(vaccel_image_segmentation(&session, "p", name, 1, sizeof(name)));
	WORKS(vaccel_image_pose(&session, "p", name, 1, 6));
	CHECK(!strcmp((char *)name, "This "));
	WORKS(vaccel_image_depth(&session, "p", NULL, 1, 0));

	int32_t in = 5, out = 0;
	struct vaccel_arg read = { &in, 4, VACCEL_ARG_INT32, 0, false }, write = { &out, 4, VACCEL_ARG_INT32, 0, false };
	WORKS(vaccel_exec(&session, "library", "symbol", &read, 1, &write, 1));
	CHECK(out == 5);
	in = 6;
	WORKS(vaccel_exec_with_resource(&session, &library, "symbol", &read, 1, &write, 1));
	CHECK(out == 6);
	// What is read and written at one place, and what is written twice.
	WORKS(vaccel_exec(&session, "library", "symbol", &read, 1, &read, 1));
	CHECK(in == 6);
	struct vaccel_arg twice[2] = { write, write };
	REFUSED(vaccel_exec(&session, "library", "symbol", &read, 1, twice, 2));
	struct vaccel_arg untyped = { &in, 4, (vaccel_arg_type_t)77, 0, false };
	REFUSED(vaccel_exec(&session, "library", "symbol", &untyped, 1, &write, 1));

	float a[4] = { 1, 2, 3, 4 }, b[4] = { 5, 6, 7, 8 }, c[4] = { 0 }, d[4] = { 0 };
	int from[3] = { 1, 2, 3 }, to[3] = { 0 };
	double numbers[2] = { 4, 5 }, held[2] = { 0 }, min = 0, max = 0;
	WORKS(vaccel_sgemm(&session, 2, 2, 2, 1, a, 2, b, 2, 0, c, 2));
	WORKS(vaccel_fpga_arraycopy(&session, from, to, 3));
	WORKS(vaccel_fpga_mmult(&session, a, b, c, 4));
	WORKS(vaccel_fpga_parallel(&session, a, b, c, d, 4));
	WORKS(vaccel_fpga_vadd(&session, a, b, c, 4, 4));
	WORKS(vaccel_minmax(&session, numbers, 2, 0, 10, held, &min, &max));
	WORKS(vaccel_fpga_arraycopy(&session, NULL, NULL, 0));
	REFUSED(vaccel_fpga_arraycopy(&session, from, from + 1, 2));
	REFUSED(vaccel_fpga_parallel(&session, a, b, c, c, 4));
	REFUSED(vaccel_fpga_mmult(&session, a, b, c, 3));
	REFUSED(vaccel_minmax(&session, numbers, 2, 0, 10, held, &min, &min));

	struct vaccel_tf_status status;
	struct vaccel_tf_node in_node = { "in", 0 }, out_node = { "out", 0 };
	struct vaccel_tf_tensor *tf_in = NULL, *tf_out = NULL;
	WORKS(vaccel_tf_model_load(&session, &model, &status));
	CHECK(status.code == 0 && status.message);
	WORKS(vaccel_tf_status_release(&status));
	WORKS(vaccel_tf_model_load(&session, &model, NULL));
	WORKS(vaccel_tf_tensor_new(&tf_in, 2, (int64_t[]){ 2, 2 }, VACCEL_TF_FLOAT));
	WORKS(vaccel_tf_tensor_set_data(tf_in, a, sizeof(a)));
	WORKS(vaccel_tf_model_run(&session, &model, NULL, &in_node, &tf_in, 1, &out_node, &tf_out, 1, &status));
	CHECK(tf_out && tf_out->owned && tf_out->nr_dims == 2 && tf_out->size == 16 && tf_out->data_type == VACCEL_TF_FLOAT);
	CHECK(!memcmp(tf_out->data, a, 16));
	WORKS(vaccel_tf_status_release(&status));
	WORKS(vaccel_tf_tensor_delete(tf_out));
	// A tensor that has fewer bytes than its shape says, a type that has no size, a shape that is none.
	tf_in->size = 12;
	REFUSED(vaccel_tf_model_run(&session, &model, NULL, &in_node, &tf_in, 1, &out_node, &tf_out, 1, &status));
	CHECK(!tf_out && status.code == 3);
	WORKS(vaccel_tf_status_release(&status));
	tf_in->size = 16;
	tf_in->dims[0] = -2;
	REFUSED(vaccel_tf_model_run(&session, &model, NULL, &in_node, &tf_in, 1, &out_node, &tf_out, 1, NULL));
	tf_in->dims[0] = 2;
	tf_in->data_type = VACCEL_TF_STRING;
	RETURNS(VACCEL_ENOTSUP,
		vaccel_tf_model_run(&session, &model, NULL, &in_node, &tf_in, 1, &out_node, &tf_out, 1, NULL));
	struct vaccel_tf_tensor *nothing = NULL;
	REFUSED(vaccel_tf_model_run(&session, &model, NULL, &in_node, &nothing, 1, &out_node, &tf_out, 1, NULL));
	struct vaccel_tf_node unnamed = { NULL, 0 };
	REFUSED(vaccel_tf_model_run(&session, &model, NULL, &unnamed, &tf_in, 1, &out_node, &tf_out, 1, NULL));
	WORKS(vaccel_tf_tensor_delete(tf_in));
	WORKS(vaccel_tf_model_unload(&session, &model, NULL));

	struct vaccel_tflite_tensor *lite_in = NULL, *lite_out = NULL;
	uint8_t code = 9;
	WORKS(vaccel_tflite_model_load(&session, &model));
	WORKS(vaccel_tflite_tensor_new(&lite_in, 1, (int32_t[]){ 4 }, VACCEL_TFLITE_FLOAT32));
	WORKS(vaccel_tflite_tensor_set_data(lite_in, b, sizeof(b)));
	WORKS(vaccel_tflite_model_run(&session, &model, &lite_in, 1, &lite_out, 1, &code));
	CHECK(code == 0 && !memcmp(lite_out->data, b, 16));
	WORKS(vaccel_tflite_tensor_delete(lite_out));
	WORKS(vaccel_tflite_tensor_delete(lite_in));
	WORKS(vaccel_tflite_model_unload(&session, &model));

	struct vaccel_torch_tensor *torch_in = NULL, *torch_out = NULL;
	WORKS(vaccel_torch_model_load(&session, &model));
	WORKS(vaccel_torch_tensor_new(&torch_in, 2, (int64_t[]){ 2, 2 }, VACCEL_TORCH_FLOAT));
	WORKS(vaccel_torch_tensor_set_data(torch_in, b, sizeof(b)));
	WORKS(vaccel_torch_model_run(&session, &model, NULL, &torch_in, 1, &torch_out, 1));
	CHECK(!memcmp(torch_out->data, b, 16));
	WORKS(vaccel_torch_tensor_delete(torch_out));
	struct vaccel_torch_tensor *none = NULL;
	WORKS(vaccel_torch_sgemm(&session, &torch_in, &torch_in, &none, 2, 2, 2, &torch_out));
	CHECK(torch_out && torch_out->nr_dims == 2 && torch_out->size == 16);
	WORKS(vaccel_torch_tensor_delete(torch_out));
	REFUSED(vaccel_torch_sgemm(&session, &torch_in, &torch_in, &torch_in, 3, 3, 3, &torch_out));
	REFUSED(vaccel_torch_sgemm(&session, &torch_in, &torch_in, &torch_in, -1, 2, 2, &torch_out));
	WORKS(vaccel_torch_tensor_delete(torch_in));

	WORKS(vaccel_session_release(&session));
	WORKS(vaccel_resource_release(&model));
	WORKS(vaccel_resource_release(&library));
	return 0;
}
