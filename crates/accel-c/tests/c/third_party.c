// A plugin as somebody else writes one for vAccel. What it does with its arguments shows that they arrived.
// Compiled in several ways: see the macros.
#include "vaccel.h"
#include <stdlib.h>
#include <string.h>

#ifndef NAME
#define NAME "third"
#endif
#ifndef BUILT_FOR
#define BUILT_FOR VACCEL_VERSION
#endif
#ifndef TYPE
#define TYPE VACCEL_PLUGIN_FPGA
#endif
#ifndef INIT_RETURNS
#define INIT_RETURNS VACCEL_OK
#endif

// How often each callback was called: init, fini, session init, release, update, resource register, unregister, sync.
int third_party_calls[8];
int third_party_noops;

static int noop(struct vaccel_session *sess)
{
	__atomic_add_fetch(&third_party_noops, 1, __ATOMIC_RELAXED);
	return sess->id > 0 && sess->plugin ? VACCEL_OK : VACCEL_EIO;
}

static int exec(struct vaccel_session *sess, const char *library, const char *symbol, struct vaccel_arg *read,
		size_t nr_read, struct vaccel_arg *write, size_t nr_write)
{
	(void)sess;
	if (strcmp(library, "library") || strcmp(symbol, "symbol"))
		return VACCEL_ENOENT;
	for (size_t i = 0; i < nr_read && i < nr_write; i++)
		memcpy(write[i].buf, read[i].buf, read[i].size);
	return VACCEL_OK;
}

static int exec_with_resource(struct vaccel_session *sess, struct vaccel_resource *res, const char *symbol,
			      struct vaccel_arg *read, size_t nr_read, struct vaccel_arg *write, size_t nr_write)
{
	if (!vaccel_session_has_resource(sess, res) || !res->nr_blobs || !res->blobs[0]->path)
		return VACCEL_EIO;
	return exec(sess, "library", symbol, read, nr_read, write, nr_write);
}

static int classify(struct vaccel_session *sess, const void *img, unsigned char *text, unsigned char *name,
		    size_t len_img, size_t len_text, size_t len_name)
{
	struct vaccel_resource *model = NULL;
	if (vaccel_session_resource_by_type(sess, &model, VACCEL_RESOURCE_MODEL))
		return VACCEL_ENOENT;
	if (text)
		snprintf((char *)text, len_text, "classified %zu bytes, %c", len_img, *(const char *)img);
	if (name)
		snprintf((char *)name, len_name, "named");
	return VACCEL_OK;
}

#define LOOK(WHAT)                                                                                        \
	static int WHAT(struct vaccel_session *sess, const void *img, unsigned char *name, size_t len_img, \
			size_t len_name)                                                                  \
	{                                                                                                 \
		(void)sess;                                                                               \
		snprintf((char *)name, len_name, #WHAT " %zu %c", len_img, *(const char *)img);           \
		return VACCEL_OK;                                                                         \
	}
LOOK(detect)
LOOK(segment)
LOOK(pose)
LOOK(depth)

static int tf_load(struct vaccel_session *sess, struct vaccel_resource *model, struct vaccel_tf_status *status)
{
	(void)sess;
	return vaccel_tf_status_init(status, 0, model->blobs[0]->name);
}

static int tf_run(struct vaccel_session *sess, struct vaccel_resource *model, const struct vaccel_tf_buffer *options,
		  const struct vaccel_tf_node *in_nodes, struct vaccel_tf_tensor *const *in, int nr_in,
		  const struct vaccel_tf_node *out_nodes, struct vaccel_tf_tensor **out, int nr_out,
		  struct vaccel_tf_status *status)
{
	(void)sess, (void)model;
	if (nr_in != 1 || nr_out != 1 || strcmp(in_nodes[0].name, "in") || out_nodes[0].id != 2 || options->size != 3)
		return VACCEL_EINVAL;
	vaccel_tf_tensor_allocate(&out[0], in[0]->nr_dims, in[0]->dims, in[0]->data_type, in[0]->size);
	memcpy(out[0]->data, in[0]->data, in[0]->size);
	return vaccel_tf_status_init(status, 0, "ran");
}

static int load(struct vaccel_session *sess, struct vaccel_resource *model)
{
	(void)sess;
	return model->nr_blobs ? VACCEL_OK : VACCEL_EIO;
}

static int tflite_run(struct vaccel_session *sess, struct vaccel_resource *model,
		      struct vaccel_tflite_tensor *const *in, int nr_in, struct vaccel_tflite_tensor **out, int nr_out,
		      uint8_t *status)
{
	(void)sess, (void)model, (void)nr_in, (void)nr_out;
	vaccel_tflite_tensor_allocate(&out[0], in[0]->nr_dims, in[0]->dims, in[0]->data_type, in[0]->size);
	memcpy(out[0]->data, in[0]->data, in[0]->size);
	*status = 17;
	return VACCEL_OK;
}

static int torch_run(struct vaccel_session *sess, struct vaccel_resource *model,
		     const struct vaccel_torch_buffer *options, struct vaccel_torch_tensor *const *in, int nr_in,
		     struct vaccel_torch_tensor **out, int nr_out)
{
	(void)sess, (void)model, (void)options, (void)nr_in, (void)nr_out;
	vaccel_torch_tensor_allocate(&out[0], in[0]->nr_dims, in[0]->dims, in[0]->data_type, in[0]->size);
	memcpy(out[0]->data, in[0]->data, in[0]->size);
	return VACCEL_OK;
}

static int torch_sgemm(struct vaccel_session *sess, struct vaccel_torch_tensor **a, struct vaccel_torch_tensor **b,
		       struct vaccel_torch_tensor **c, int m, int n, int k, struct vaccel_torch_tensor **out)
{
	(void)sess, (void)b, (void)c;
	*out = a[0];
	return m == 1 && n == 2 && k == 3 ? VACCEL_OK : VACCEL_EINVAL;
}

static int sgemm(struct vaccel_session *sess, int64_t m, int64_t n, int64_t k, float alpha, float *a, int64_t lda,
		 float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
	(void)sess;
	c[0] = (float)(m * 100 + n * 10 + k) + alpha + beta + a[0] + b[0] + (float)(lda + ldb + ldc);
	return VACCEL_OK;
}

static int arraycopy(struct vaccel_session *sess, int a[], int out[], size_t len)
{
	(void)sess;
	memcpy(out, a, len * sizeof(int));
	return VACCEL_OK;
}

static int mmult(struct vaccel_session *sess, float a[], float b[], float c[], size_t len)
{
	(void)sess;
	c[0] = a[0] * b[0] + (float)len;
	return VACCEL_OK;
}

static int parallel(struct vaccel_session *sess, float a[], float b[], float sum[], float product[], size_t len)
{
	(void)sess, (void)len;
	sum[0] = a[0] + b[0];
	product[0] = a[0] * b[0];
	return VACCEL_OK;
}

static int vadd(struct vaccel_session *sess, float a[], float b[], float c[], size_t len_a, size_t len_b)
{
	(void)sess, (void)len_b;
	for (size_t i = 0; i < len_a; i++)
		c[i] = a[i] + b[i];
	return VACCEL_OK;
}

static int minmax(struct vaccel_session *sess, const double *in, int count, int low, int high, double *out,
		  double *min, double *max)
{
	(void)sess;
	out[0] = in[0];
	*min = low;
	*max = high + count;
	return VACCEL_OK;
}

static int opencv(struct vaccel_session *sess, struct vaccel_arg *read, int nr_read, struct vaccel_arg *write,
		  int nr_write)
{
	(void)sess;
	if (nr_read != 1 || nr_write != 1)
		return VACCEL_EINVAL;
	memcpy(write[0].buf, read[0].buf, read[0].size);
	return VACCEL_OK;
}

static struct vaccel_op ops[] = {
	VACCEL_OP_INIT(ops[0], VACCEL_OP_NOOP, noop),
#ifndef ONLY_NOOP
	VACCEL_OP_INIT(ops[1], VACCEL_OP_EXEC, exec),
	VACCEL_OP_INIT(ops[2], VACCEL_OP_EXEC_WITH_RESOURCE, exec_with_resource),
	VACCEL_OP_INIT(ops[3], VACCEL_OP_IMAGE_CLASSIFY, classify),
	VACCEL_OP_INIT(ops[4], VACCEL_OP_IMAGE_DETECT, detect),
	VACCEL_OP_INIT(ops[5], VACCEL_OP_IMAGE_SEGMENT, segment),
	VACCEL_OP_INIT(ops[6], VACCEL_OP_IMAGE_POSE, pose),
	VACCEL_OP_INIT(ops[7], VACCEL_OP_IMAGE_DEPTH, depth),
	VACCEL_OP_INIT(ops[8], VACCEL_OP_TF_MODEL_LOAD, tf_load),
	VACCEL_OP_INIT(ops[9], VACCEL_OP_TF_MODEL_UNLOAD, tf_load),
	VACCEL_OP_INIT(ops[10], VACCEL_OP_TF_MODEL_RUN, tf_run),
	VACCEL_OP_INIT(ops[11], VACCEL_OP_TFLITE_MODEL_LOAD, load),
	VACCEL_OP_INIT(ops[12], VACCEL_OP_TFLITE_MODEL_UNLOAD, load),
	VACCEL_OP_INIT(ops[13], VACCEL_OP_TFLITE_MODEL_RUN, tflite_run),
	VACCEL_OP_INIT(ops[14], VACCEL_OP_TORCH_MODEL_LOAD, load),
	VACCEL_OP_INIT(ops[15], VACCEL_OP_TORCH_MODEL_RUN, torch_run),
	VACCEL_OP_INIT(ops[16], VACCEL_OP_TORCH_SGEMM, torch_sgemm),
	VACCEL_OP_INIT(ops[17], VACCEL_OP_BLAS_SGEMM, sgemm),
	VACCEL_OP_INIT(ops[18], VACCEL_OP_FPGA_ARRAYCOPY, arraycopy),
	VACCEL_OP_INIT(ops[19], VACCEL_OP_FPGA_MMULT, mmult),
	VACCEL_OP_INIT(ops[20], VACCEL_OP_FPGA_PARALLEL, parallel),
	VACCEL_OP_INIT(ops[21], VACCEL_OP_FPGA_VECTORADD, vadd),
	VACCEL_OP_INIT(ops[22], VACCEL_OP_MINMAX, minmax),
	VACCEL_OP_INIT(ops[23], VACCEL_OP_OPENCV, opencv),
#endif
};

static int init(void)
{
	third_party_calls[0]++;
	// What a plugin may call while it is loaded.
	vaccel_debug("%s is loaded with plugins %s", NAME, vaccel_config()->plugins);
	if (INIT_RETURNS)
		return INIT_RETURNS;
	if (vaccel_plugin_register_op(&ops[0]))
		return VACCEL_EIO;
	return vaccel_plugin_register_ops(ops, sizeof(ops) / sizeof(ops[0]));
}

static int fini(void)
{
	third_party_calls[1]++;
	return VACCEL_OK;
}

static int session_init(struct vaccel_session *sess, uint32_t flags)
{
	third_party_calls[2]++;
	if (flags & VACCEL_PLUGIN_GPU)
		return VACCEL_ENODEV;
	sess->remote_id = 1000 + sess->id;
	return VACCEL_OK;
}

static int session_release(struct vaccel_session *sess)
{
	third_party_calls[3]++;
	return sess->remote_id == 1000 + sess->id ? VACCEL_OK : VACCEL_EIO;
}

static int session_update(struct vaccel_session *sess, uint32_t flags)
{
	third_party_calls[4]++;
	sess->hint = flags;
	return VACCEL_OK;
}

static int resource_register(struct vaccel_resource *res, struct vaccel_session *sess)
{
	third_party_calls[5]++;
	if (sess->is_virtio && (!res->blobs[0]->data || !res->blobs[0]->size))
		return VACCEL_EIO;
	res->remote_id = 2000 + res->id;
	return VACCEL_OK;
}

static int resource_unregister(struct vaccel_resource *res, struct vaccel_session *sess)
{
	(void)res, (void)sess;
	third_party_calls[6]++;
	return VACCEL_OK;
}

static int resource_sync(struct vaccel_resource *res, struct vaccel_session *sess)
{
	(void)sess;
	third_party_calls[7]++;
	res->blobs[0]->data[0] = 'S';
	return VACCEL_OK;
}

VACCEL_PLUGIN(
#ifndef NO_NAME
	.name = NAME,
#endif
	.version = "1.2.3", .vaccel_version = BUILT_FOR, .type = TYPE,
#ifndef NO_INIT
	.init = init,
#endif
	.fini = fini,
#ifdef REMOTE
	.is_virtio = true,
#endif
	.session_init = session_init, .session_release = session_release, .session_update = session_update,
	.resource_register = resource_register, .resource_unregister = resource_unregister,
	.resource_sync = resource_sync)
