// Blobs of files, memory, and memory in files.
#include "check.h"
#include "utils/fs.h"

int main(int count, char **values)
{
	arguments(count, values);
	const char *path = write_file("blob.txt", "content", 7);
	struct vaccel_blob blob, *heap = NULL;
	size_t size = 0;

	WORKS(vaccel_blob_init(&blob, path));
	CHECK(blob.type == VACCEL_BLOB_FILE && !strcmp(blob.name, "blob.txt") && !strcmp(blob.path, path));
	CHECK(!blob.data && !blob.size && !blob.path_owned && vaccel_blob_valid(&blob));
	CHECK(!strcmp(vaccel_blob_path(&blob), path));
	uint8_t *data = vaccel_blob_data(&blob, &size);
	CHECK(data && size == 7 && !memcmp(data, "content", 7) && blob.type == VACCEL_BLOB_MAPPED);
	// What was read stays, whatever becomes of the file, and can be written.
	CHECK(truncate(path, 0) == 0);
	memcpy(data, "CONTENT", 7);
	CHECK(!memcmp(data, "CONTENT", 7));
	WORKS(vaccel_blob_read(&blob));
	RETURNS(VACCEL_EEXIST, vaccel_blob_persist(&blob, folder, "again", false));
	WORKS(vaccel_blob_release(&blob));
	CHECK(is_there(path) && !blob.name && !blob.path && !blob.data && blob.type == VACCEL_BLOB_MAX);
	REFUSED(vaccel_blob_release(&blob));
	REFUSED(vaccel_blob_read(&blob));
	CHECK(!vaccel_blob_data(&blob, &size) && !vaccel_blob_valid(&blob) && !vaccel_blob_path(&blob));

	// An empty file and one that is gone cannot be read.
	WORKS(vaccel_blob_new(&heap, path));
	REFUSED(vaccel_blob_read(heap));
	CHECK(!vaccel_blob_data(heap, NULL));
	CHECK(unlink(path) == 0);
	RETURNS(VACCEL_ENOENT, vaccel_blob_read(heap));
	WORKS(vaccel_blob_delete(heap));
	REFUSED(vaccel_blob_init(&blob, path));
	REFUSED(vaccel_blob_init(&blob, folder));
	REFUSED(vaccel_blob_init(&blob, NULL));
	REFUSED(vaccel_blob_init(NULL, path));
	REFUSED(vaccel_blob_new(NULL, path));
	REFUSED(vaccel_blob_new(&heap, NULL));

	const uint8_t bytes[] = "bytes";
	WORKS(vaccel_blob_init_from_buf(&blob, bytes, 5, false, "name", NULL, false));
	CHECK(blob.data == bytes && !blob.data_owned && blob.type == VACCEL_BLOB_BUFFER && !vaccel_blob_path(&blob));
	CHECK(vaccel_blob_data(&blob, NULL) == bytes && vaccel_blob_valid(&blob));
	WORKS(vaccel_blob_persist(&blob, folder, "kept.bin", false));
	CHECK(!strcmp(blob.name, "kept.bin") && blob.type == VACCEL_BLOB_MAPPED && blob.path_owned && blob.data != bytes);
	CHECK(!memcmp(blob.data, "bytes", 5) && !strcmp(vaccel_blob_path(&blob), in(folder, "kept.bin")));
	CHECK(is_there(in(folder, "kept.bin")));

	// A name that is taken gets another; the file of before stays as it is.
	WORKS(vaccel_blob_from_buf(&heap, (const uint8_t *)"other", 5, true, "kept.bin", folder, false));
	CHECK(strcmp(heap->path, blob.path) && strstr(heap->name, ".bin") && is_there(heap->path));
	char path_of_heap[PATH_MAX];
	strcpy(path_of_heap, heap->path);
	WORKS(vaccel_blob_delete(heap));
	CHECK(!is_there(path_of_heap) && is_there(in(folder, "kept.bin")));
	WORKS(vaccel_blob_release(&blob));
	CHECK(!is_there(in(folder, "kept.bin")));

	WORKS(vaccel_blob_from_buf(&heap, bytes, 5, true, "random", folder, true));
	CHECK(strcmp(heap->name, "random"));
	struct stat stat_of;
	CHECK(!stat(heap->path, &stat_of) && (stat_of.st_mode & 0777) == 0600);
	WORKS(vaccel_blob_delete(heap));
	WORKS(vaccel_blob_from_buf(&heap, bytes, 5, true, "copy", NULL, false));
	CHECK(heap->data != bytes && heap->data_owned);
	WORKS(vaccel_blob_persist(heap, folder, "copy", true));
	WORKS(vaccel_blob_delete(heap));

	// A name that leads out of the folder is none.
	const char *names[] = { "../out", "/out", "a/b", "", ".", ".." };
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		REFUSED(vaccel_blob_init_from_buf(&blob, bytes, 5, false, names[i], folder, false));
	RETURNS(VACCEL_ENOENT, vaccel_blob_init_from_buf(&blob, bytes, 5, false, "a", in(folder, "none"), false));
	REFUSED(vaccel_blob_init_from_buf(&blob, bytes, 0, false, "a", NULL, false));
	REFUSED(vaccel_blob_init_from_buf(&blob, NULL, 5, false, "a", NULL, false));
	REFUSED(vaccel_blob_init_from_buf(&blob, bytes, 5, false, NULL, NULL, false));
	REFUSED(vaccel_blob_init_from_buf(NULL, bytes, 5, false, "a", NULL, false));
	REFUSED(vaccel_blob_from_buf(NULL, bytes, 5, false, "a", NULL, false));
	REFUSED(vaccel_blob_persist(NULL, folder, "a", false));
	WORKS(vaccel_blob_init_from_buf(&blob, bytes, 5, false, "a", NULL, false));
	REFUSED(vaccel_blob_persist(&blob, folder, NULL, false));
	RETURNS(VACCEL_ENOENT, vaccel_blob_persist(&blob, NULL, "a", false));
	WORKS(vaccel_blob_release(&blob));
	REFUSED(vaccel_blob_release(NULL));
	REFUSED(vaccel_blob_delete(NULL));
	REFUSED(vaccel_blob_read(NULL));
	CHECK(!vaccel_blob_data(NULL, &size) && !vaccel_blob_path(NULL) && !vaccel_blob_valid(NULL));

	// Files as vAccel's examples read them.
	void *read = NULL;
	WORKS(fs_file_read(write_file("read.txt", "read me", 7), &read, &size));
	CHECK(size == 7 && !memcmp(read, "read me", 7));
	free(read);
	WORKS(fs_file_read(in(folder, "read.txt"), &read, NULL));
	free(read);
	RETURNS(VACCEL_ENOENT, fs_file_read(in(folder, "none"), &read, &size));
	REFUSED(fs_file_read(write_file("empty", "", 0), &read, &size));
	REFUSED(fs_file_read(folder, &read, &size));
	REFUSED(fs_file_read(NULL, &read, &size));
	REFUSED(fs_file_read(in(folder, "read.txt"), NULL, &size));
	CHECK(mkfifo(in(folder, "pipe"), 0600) == 0);
	REFUSED(fs_file_read(in(folder, "pipe"), &read, &size));
	return 0;
}
