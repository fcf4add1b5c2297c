// Sizes, places of fields and numbers that programs were compiled with.
#include "check.h"

#define SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type)
#define PLACE(type, field, place) _Static_assert(offsetof(struct type, field) == (place), #type "." #field)

SIZE(vaccel_arg, 32);
SIZE(vaccel_arg_array, 40);
SIZE(vaccel_arg_list, 32);
SIZE(vaccel_blob, 56);
SIZE(vaccel_config, 32);
SIZE(vaccel_resource, 152);
SIZE(vaccel_session, 4264);
SIZE(vaccel_plugin, 224);
SIZE(vaccel_plugin_info, 96);
SIZE(vaccel_op, 24);
SIZE(vaccel_tf_tensor, 40);
SIZE(vaccel_tflite_tensor, 40);
SIZE(vaccel_torch_tensor, 48);
SIZE(vaccel_tf_buffer, 16);
SIZE(vaccel_torch_buffer, 16);
SIZE(vaccel_tf_node, 16);
SIZE(vaccel_tf_status, 16);
SIZE(vaccel_prof_region, 40);
SIZE(vaccel_prof_sample, 16);
SIZE(vaccel_list_entry, 16);
SIZE(SLogConfig, 2312);

PLACE(vaccel_arg, type, 16);
PLACE(vaccel_arg, custom_type_id, 20);
PLACE(vaccel_arg, owned, 24);
PLACE(vaccel_arg_array, position, 24);
PLACE(vaccel_blob, path_owned, 24);
PLACE(vaccel_blob, size, 48);
PLACE(vaccel_resource, path_type, 20);
PLACE(vaccel_resource, paths, 24);
PLACE(vaccel_resource, blobs, 48);
PLACE(vaccel_resource, entry, 64);
PLACE(vaccel_resource, sessions, 80);
PLACE(vaccel_resource, sessions_lock, 96);
PLACE(vaccel_resource, refcount, 136);
PLACE(vaccel_resource, plugin_priv, 144);
PLACE(vaccel_session, hint, 16);
PLACE(vaccel_session, is_virtio, 20);
PLACE(vaccel_session, rundir, 21);
PLACE(vaccel_session, entry, 4120);
PLACE(vaccel_session, resources, 4136);
PLACE(vaccel_session, resource_counts, 4184);
PLACE(vaccel_session, resources_lock, 4208);
PLACE(vaccel_session, plugin, 4248);
PLACE(vaccel_session, priv, 4256);
PLACE(vaccel_plugin, ops, 24);
PLACE(vaccel_plugin, info, 216);
PLACE(vaccel_plugin_info, is_virtio, 40);
PLACE(vaccel_plugin_info, type, 44);
PLACE(vaccel_plugin_info, resource_sync, 88);
PLACE(vaccel_tf_tensor, nr_dims, 20);
PLACE(vaccel_tf_tensor, dims, 24);
PLACE(vaccel_torch_tensor, nr_dims, 24);
PLACE(vaccel_torch_tensor, data_type, 40);

_Static_assert(VACCEL_OP_MAX == 24 && VACCEL_OP_BLAS_SGEMM == 17 && VACCEL_OP_OPENCV == 23, "operations");
_Static_assert(VACCEL_ARG_MAX == 30 && VACCEL_ARG_STRING == 27 && VACCEL_ARG_CUSTOM == 29, "arguments");
_Static_assert(VACCEL_RESOURCE_MAX == 3 && VACCEL_BLOB_MAX == 3 && VACCEL_PATH_MAX == 3, "resources");
_Static_assert(VACCEL_PLUGIN_REMOTE == 0x4000 && VACCEL_PLUGIN_MAX == 0x10000, "plugins");
_Static_assert(VACCEL_LOG_ERROR == 1 && VACCEL_LOG_DEBUG == 4, "levels");
_Static_assert(VACCEL_ESESS == ECONNRESET && VACCEL_EBACKEND == EPROTO, "errors");

struct vaccel_plugin vaccel_this_plugin;

int main(void)
{
	char name[VACCEL_ENUM_STR_MAX];
	CHECK(!strcmp(vaccel_op_type_to_str(VACCEL_OP_TF_MODEL_RUN), "VACCEL_OP_TF_MODEL_RUN"));
	CHECK(!strcmp(vaccel_op_type_to_base_str(VACCEL_OP_NOOP), "NOOP"));
	CHECK(!strcmp(vaccel_op_type_name(VACCEL_OP_MINMAX, name, sizeof(name)), "minmax"));
	CHECK(!strcmp(vaccel_op_type_to_lower(VACCEL_OP_EXEC, name, sizeof(name)), "exec"));
	CHECK(!strcmp(vaccel_arg_type_name(VACCEL_ARG_INT8_ARRAY, name, sizeof(name)), "int8_array"));
	CHECK(!strcmp(vaccel_blob_type_to_str(VACCEL_BLOB_MAPPED), "VACCEL_BLOB_MAPPED"));
	CHECK(!strcmp(vaccel_path_type_to_base_str(VACCEL_PATH_REMOTE_FILE), "REMOTE_FILE"));
	CHECK(!strcmp(vaccel_resource_type_to_str((vaccel_resource_type_t)9), "VACCEL_RESOURCE_MAX"));
	CHECK(!strcmp(vaccel_plugin_type_to_base_str(VACCEL_PLUGIN_GPU), "GPU"));
	CHECK(!strcmp(vaccel_log_level_name(VACCEL_LOG_WARN, name, sizeof(name)), "warn"));
	CHECK(!vaccel_log_level_name(VACCEL_LOG_WARN, NULL, 0));

	WORKS(vaccel_str_to_lower("AbC", name, 3, NULL));
	CHECK(!strcmp(name, "ab"));
	char *copy = NULL;
	WORKS(vaccel_str_to_lower("AbC", NULL, 0, &copy));
	CHECK(!strcmp(copy, "abc"));
	free(copy);
	REFUSED(vaccel_str_to_lower(NULL, name, 3, NULL));
	REFUSED(vaccel_str_to_lower("a", NULL, 3, NULL));
	REFUSED(vaccel_str_to_lower("a", name, 0, NULL));
	return 0;
}
