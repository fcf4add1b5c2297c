// Operations on Kernlet's own plugins: right results, and whatever is wrong with the arguments.
#include "check.h"
#include "utils/fs.h"
#include <math.h>

static struct vaccel_session session;

static void products(void)
{
	// Rows are further apart than they are long; between them nothing is touched.
	float a[2][4] = { { 1, 2, 3, -9 }, { 4, 5, 6, -9 } };
	float b[3][3] = { { 7, 8, -9 }, { 9, 10, -9 }, { 11, 12, -9 } };
	float c[2][5] = { { 1, 1, 50, 51, 52 }, { 1, 1, 53, 54, 55 } };
	WORKS(vaccel_sgemm(&session, 2, 2, 3, 2, a[0], 4, b[0], 3, 10, c[0], 5));
	CHECK(c[0][0] == 126 && c[0][1] == 138 && c[1][0] == 288 && c[1][1] == 318);
	CHECK(c[0][2] == 50 && c[0][4] == 52 && c[1][2] == 53);
	WORKS(vaccel_sgemm(&session, 0, 2, 3, 2, a[0], 4, b[0], 3, 10, c[0], 5));
	WORKS(vaccel_sgemm(&session, 1, 1, 0, 1, a[0], 1, b[0], 1, 0, c[0], 1));
	CHECK(c[0][0] == 0);
	REFUSED(vaccel_sgemm(&session, 2, 2, 3, 1, a[0], 2, b[0], 3, 0, c[0], 5));
	REFUSED(vaccel_sgemm(&session, 2, 2, 3, 1, a[0], 4, b[0], -3, 0, c[0], 5));
	REFUSED(vaccel_sgemm(&session, 2, 2, 3, 1, a[0], 4, b[0], 3, 0, c[0], 1));
	REFUSED(vaccel_sgemm(&session, INT64_MAX, INT64_MAX, INT64_MAX, 1, a[0], INT64_MAX, b[0], INT64_MAX, 0, c[0], INT64_MAX));
	// A product into its own factor, and one at an address that no number has.
	REFUSED(vaccel_sgemm(&session, 2, 2, 2, 1, a[0], 4, b[0], 3, 0, a[0], 4));
	REFUSED(vaccel_sgemm(&session, 1, 1, 1, 1, (float *)((char *)a[0] + 1), 4, b[0], 3, 0, c[0], 4));
	a[0][0] = NAN;
	WORKS(vaccel_sgemm(&session, 1, 1, 1, 1, a[0], 1, b[0], 1, 0, c[0], 1));
	CHECK(isnan(c[0][0]));
}

static void pictures(void)
{
	struct vaccel_resource model, labels;
	unsigned char text[256] = { 0 }, name[8] = "unset", tiny[4] = "abc";
	void *picture = NULL;
	size_t size = 0;
	WORKS(fs_file_read(in(models, "pictures/cat.jpg"), &picture, &size));
	WORKS(vaccel_resource_init(&model, in(models, "mobilenet_v2_fp16w.onnx"), VACCEL_RESOURCE_MODEL));
	WORKS(vaccel_resource_init(&labels, in(models, "imagenet_classes.txt"), VACCEL_RESOURCE_DATA));
	CHECK(vaccel_image_classification(&session, picture, text, name, size, sizeof(text), sizeof(name)) != VACCEL_OK);
	WORKS(vaccel_resource_register(&model, &session));
	WORKS(vaccel_image_classification(&session, picture, text, name, size, sizeof(text), sizeof(name)));
	CHECK(strstr((char *)text, "% class ") && !name[0]);
	// Labels of the environment count until the session has its own.
	CHECK(!setenv("VACCEL_TORCH_LABELS", in(models, "imagenet_classes.txt"), 1));
	WORKS(vaccel_image_classification(&session, picture, text, name, size, sizeof(text), sizeof(name)));
	CHECK(strstr((char *)text, "cat"));
	CHECK(!unsetenv("VACCEL_TORCH_LABELS"));
	WORKS(vaccel_resource_register(&labels, &session));
	WORKS(vaccel_image_classification(&session, picture, text, NULL, size, sizeof(text), 0));
	CHECK(strstr((char *)text, "cat"));
	WORKS(vaccel_image_classification(&session, picture, tiny, NULL, size, sizeof(tiny), 0));
	CHECK(strlen((char *)tiny) == 3 && !strncmp((char *)tiny, (char *)text, 3));
	WORKS(vaccel_image_classification(&session, picture, NULL, NULL, size, 0, 0));
	// A picture that is none, or ends too soon.
	REFUSED(vaccel_image_classification(&session, "no picture", text, NULL, 10, sizeof(text), 0));
	REFUSED(vaccel_image_classification(&session, picture, text, NULL, 100, sizeof(text), 0));
	// In memory, and in another session at the same time.
	struct vaccel_session other;
	struct vaccel_resource in_memory;
	void *bytes = NULL;
	size_t bytes_size = 0;
	WORKS(fs_file_read(in(models, "mobilenet_v2_fp16w.onnx"), &bytes, &bytes_size));
	WORKS(vaccel_session_init(&other, 0));
	WORKS(vaccel_resource_init_from_buf(&in_memory, bytes, bytes_size, VACCEL_RESOURCE_MODEL, NULL, true));
	WORKS(vaccel_resource_register(&in_memory, &other));
	WORKS(vaccel_resource_register(&labels, &other));
	WORKS(vaccel_image_classification(&other, picture, text, NULL, size, sizeof(text), 0));
	CHECK(strstr((char *)text, "cat"));
	// Once it is synchronized, what the buffer holds now counts.
	memset(bytes, 0, bytes_size);
	WORKS(vaccel_image_classification(&other, picture, text, NULL, size, sizeof(text), 0));
	WORKS(vaccel_resource_sync(&in_memory, &other));
	CHECK(vaccel_image_classification(&other, picture, text, NULL, size, sizeof(text), 0) != VACCEL_OK);
	WORKS(vaccel_session_release(&other));
	WORKS(vaccel_resource_release(&in_memory));
	free(bytes);
	WORKS(vaccel_resource_unregister(&model, &session));
	CHECK(vaccel_image_classification(&session, picture, text, NULL, size, sizeof(text), 0) != VACCEL_OK);
	WORKS(vaccel_resource_release(&model));
	WORKS(vaccel_resource_release(&labels));
	free(picture);
}

int main(int count, char **values)
{
	arguments(count, values);
	start_with("rten:gemm");
	WORKS(vaccel_session_init(&session, 0));
	CHECK(!strcmp(session.plugin->info->name, "kernlet"));
	RETURNS(VACCEL_ENOTSUP, vaccel_noop(&session));
	products();
	if (!getenv("NO_INFERENCE"))
		pictures();
	WORKS(vaccel_session_release(&session));
	return 0;
}
