// Says what is in a picture: `classify PICTURE MODEL LABELS`. Runs unchanged on vAccel's own library.
//
//   cc classify.c -o classify $(pkg-config --cflags --libs vaccel)
#include <vaccel.h>

static int read_file(const char *path, void **data, size_t *size)
{
	struct vaccel_blob blob;
	int ret = vaccel_blob_init(&blob, path);
	if (ret)
		return ret;
	uint8_t *content = vaccel_blob_data(&blob, size);
	*data = content ? malloc(*size) : NULL;
	if (*data)
		memcpy(*data, content, *size);
	vaccel_blob_release(&blob);
	return *data ? VACCEL_OK : VACCEL_EIO;
}

int main(int argc, char **argv)
{
	struct vaccel_session session;
	struct vaccel_resource model, labels;
	unsigned char text[256];
	void *picture = NULL;
	size_t size = 0;

	if (argc != 4) {
		fprintf(stderr, "usage: %s PICTURE MODEL LABELS\n", argv[0]);
		return 2;
	}
	int ret = read_file(argv[1], &picture, &size);
	if (ret)
		goto out;
	ret = vaccel_session_init(&session, 0);
	if (ret)
		goto free_picture;
	ret = vaccel_resource_init(&model, argv[2], VACCEL_RESOURCE_MODEL);
	if (ret)
		goto release_session;
	ret = vaccel_resource_init(&labels, argv[3], VACCEL_RESOURCE_DATA);
	if (ret)
		goto release_model;
	ret = vaccel_resource_register(&model, &session);
	if (!ret)
		ret = vaccel_resource_register(&labels, &session);
	if (!ret)
		ret = vaccel_image_classification(&session, picture, text, NULL, size, sizeof(text), 0);
	if (!ret)
		printf("classification tags: %s\n", text);

	vaccel_resource_release(&labels);
release_model:
	vaccel_resource_release(&model);
release_session:
	vaccel_session_release(&session);
free_picture:
	free(picture);
out:
	if (ret)
		fprintf(stderr, "%s: %s\n", argv[0], strerror(ret));
	return ret ? 1 : 0;
}
