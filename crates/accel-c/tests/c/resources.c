// Resources of every kind, in several sessions, and whatever is wrong with them.
#include "check.h"

static void files(void)
{
	const char *first = write_file("first.bin", "first", 5), *second = write_file("second.bin", "second", 6);
	struct vaccel_session a, b;
	struct vaccel_resource file, several, *heap = NULL, *found = NULL;
	WORKS(vaccel_session_init(&a, 0));
	WORKS(vaccel_session_init(&b, 0));

	WORKS(vaccel_resource_init(&file, first, VACCEL_RESOURCE_MODEL));
	CHECK(file.id > 0 && file.type == VACCEL_RESOURCE_MODEL && file.path_type == VACCEL_PATH_LOCAL_FILE);
	CHECK(file.nr_paths == 1 && !strcmp(file.paths[0], first) && !file.blobs && !file.nr_blobs);
	RETURNS(0, vaccel_resource_refcount(&file));
	CHECK(!vaccel_session_has_resource(&a, &file));
	WORKS(vaccel_resource_register(&file, &a));
	WORKS(vaccel_resource_register(&file, &a));
	RETURNS(1, vaccel_resource_refcount(&file));
	WORKS(vaccel_resource_register(&file, &b));
	RETURNS(2, vaccel_resource_refcount(&file));
	CHECK(file.nr_blobs == 1 && !strcmp(file.blobs[0]->path, first) && !file.blobs[0]->data);
	CHECK(vaccel_session_has_resource(&a, &file) && vaccel_sess_has_resource(&b, &file));
	CHECK(a.resource_counts[VACCEL_RESOURCE_MODEL] == 1);
	CHECK(a.resources[VACCEL_RESOURCE_MODEL].next != &a.resources[VACCEL_RESOURCE_MODEL]);
	CHECK(file.sessions.next != &file.sessions);
	size_t size = 0;
	CHECK(!memcmp(vaccel_blob_data(file.blobs[0], &size), "first", 5) && size == 5);
	WORKS(vaccel_resource_unregister(&file, &a));
	REFUSED(vaccel_resource_unregister(&file, &a));
	RETURNS(1, vaccel_resource_refcount(&file));
	CHECK(a.resources[VACCEL_RESOURCE_MODEL].next == &a.resources[VACCEL_RESOURCE_MODEL]);

	// file:// and several files.
	char uri[PATH_MAX + 8];
	snprintf(uri, sizeof(uri), "file://%s", second);
	const char *paths[] = { first, uri };
	WORKS(vaccel_resource_init_multi(&several, paths, 2, VACCEL_RESOURCE_LIB));
	CHECK(several.nr_paths == 2 && !strcmp(several.paths[1], second));
	WORKS(vaccel_resource_register(&several, &a));
	CHECK(several.nr_blobs == 2 && !strcmp(several.blobs[1]->name, "second.bin"));

	WORKS(vaccel_resource_get_by_id(&found, several.id));
	CHECK(found == &several);
	RETURNS(VACCEL_ENOENT, vaccel_resource_get_by_id(&found, 123456));
	WORKS(vaccel_resource_get_by_type(&found, VACCEL_RESOURCE_LIB));
	CHECK(found == &several);
	RETURNS(VACCEL_ENOENT, vaccel_resource_get_by_type(&found, VACCEL_RESOURCE_DATA));
	WORKS(vaccel_resource_new(&heap, second, VACCEL_RESOURCE_LIB));
	struct vaccel_resource **all = NULL;
	WORKS(vaccel_resource_get_all_by_type(&all, &size, VACCEL_RESOURCE_LIB));
	CHECK(size == 2 && all[0] == &several && all[1] == heap);
	free(all);
	WORKS(vaccel_resource_delete(heap));
	RETURNS(VACCEL_ENOENT, vaccel_resource_get_all_by_type(&all, &size, VACCEL_RESOURCE_DATA));
	RETURNS(0, size);
	WORKS(vaccel_resource_multi_new(&heap, paths, 2, VACCEL_RESOURCE_DATA));
	WORKS(vaccel_resource_delete(heap));

	// A released resource is in no session; a released session has no resource.
	WORKS(vaccel_resource_release(&file));
	CHECK(!file.id && !file.blobs && !file.paths && !vaccel_session_has_resource(&b, &file));
	REFUSED(vaccel_resource_release(&file));
	REFUSED(vaccel_resource_register(&file, &b));
	WORKS(vaccel_session_release(&a));
	RETURNS(0, vaccel_resource_refcount(&several));
	REFUSED(vaccel_resource_register(&several, &a));
	WORKS(vaccel_resource_release(&several));
	WORKS(vaccel_session_release(&b));

	// What cannot be one.
	REFUSED(vaccel_resource_init(&file, in(folder, "none"), VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init(&file, "gopher://host/file", VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init(&file, "", VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init(&file, NULL, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init(&file, first, VACCEL_RESOURCE_MAX));
	REFUSED(vaccel_resource_init(NULL, first, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init_multi(&file, paths, 0, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init_multi(&file, NULL, 2, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init_multi(&file, (const char *[]){ first, NULL }, 2, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init_multi(NULL, paths, 2, VACCEL_RESOURCE_DATA));
	RETURNS(VACCEL_ENOTSUP,
		vaccel_resource_init_multi(&file, (const char *[]){ first, folder }, 2, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init_multi(&file, (const char *[]){ first, "http://a/b" }, 2, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_new(NULL, first, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_new(&heap, NULL, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_multi_new(NULL, paths, 2, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_multi_new(&heap, paths, 0, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_release(NULL));
	REFUSED(vaccel_resource_delete(NULL));
	REFUSED(vaccel_resource_get_by_id(NULL, 1));
	REFUSED(vaccel_resource_get_by_type(NULL, VACCEL_RESOURCE_LIB));
	REFUSED(vaccel_resource_get_by_type(&found, VACCEL_RESOURCE_MAX));
	REFUSED(vaccel_resource_get_all_by_type(NULL, &size, VACCEL_RESOURCE_LIB));
	REFUSED(vaccel_resource_get_all_by_type(&all, NULL, VACCEL_RESOURCE_LIB));
	REFUSED(vaccel_resource_get_all_by_type(&all, &size, (vaccel_resource_type_t)77));
	RETURNS(-VACCEL_EINVAL, vaccel_resource_refcount(NULL));
	struct vaccel_resource blank;
	memset(&blank, 0, sizeof(blank));
	REFUSED(vaccel_resource_release(&blank));
	memset(&blank, 0xa5, sizeof(blank));
	REFUSED(vaccel_resource_release(&blank));
}

static void folders(void)
{
	char path[PATH_MAX], *allocated = NULL;
	CHECK(!mkdir(in(folder, "model"), 0700) && !mkdir(in(folder, "model/variables"), 0700));
	write_file("model/saved_model.pb", "graph", 5);
	write_file("model/variables/data", "numbers", 7);
	struct vaccel_session session;
	struct vaccel_resource resource, other;
	WORKS(vaccel_session_init(&session, 0));
	WORKS(vaccel_resource_init(&resource, in(folder, "model"), VACCEL_RESOURCE_MODEL));
	CHECK(resource.path_type == VACCEL_PATH_LOCAL_DIR);
	WORKS(vaccel_resource_register(&resource, &session));
	CHECK(resource.nr_blobs == 2 && !strcmp(resource.blobs[0]->name, "saved_model.pb"));
	WORKS(vaccel_resource_directory(&resource, path, sizeof(path), NULL));
	CHECK(!strcmp(path, in(folder, "model")));
	WORKS(vaccel_resource_directory(&resource, NULL, 0, &allocated));
	CHECK(!strcmp(allocated, path));
	free(allocated);
	REFUSED(vaccel_resource_directory(&resource, path, strlen(path), NULL));
	REFUSED(vaccel_resource_directory(&resource, NULL, 0, NULL));
	REFUSED(vaccel_resource_directory(NULL, path, sizeof(path), NULL));
	WORKS(vaccel_resource_init(&other, in(folder, "model/saved_model.pb"), VACCEL_RESOURCE_MODEL));
	RETURNS(VACCEL_ENOTSUP, vaccel_resource_directory(&other, path, sizeof(path), NULL));
	WORKS(vaccel_resource_release(&other));
	REFUSED(vaccel_resource_directory(&other, path, sizeof(path), NULL));
	RETURNS(VACCEL_EINVAL, vaccel_resource_sync(&resource, &session));
	WORKS(vaccel_resource_release(&resource));

	// A file that is gone by the time it is registered; one that would have to be downloaded.
	WORKS(vaccel_resource_init(&resource, write_file("fleeting", "x", 1), VACCEL_RESOURCE_DATA));
	CHECK(!unlink(in(folder, "fleeting")));
	REFUSED(vaccel_resource_register(&resource, &session));
	WORKS(vaccel_resource_release(&resource));
	WORKS(vaccel_resource_init(&resource, "https://example.com/model.onnx", VACCEL_RESOURCE_MODEL));
	CHECK(resource.path_type == VACCEL_PATH_REMOTE_FILE);
	RETURNS(VACCEL_ENOTSUP, vaccel_resource_register(&resource, &session));
	WORKS(vaccel_resource_release(&resource));
	WORKS(vaccel_session_release(&session));
}

static void memory(void)
{
	char bytes[] = "in memory";
	struct vaccel_session session;
	struct vaccel_resource lent, kept, made, *heap = NULL;
	WORKS(vaccel_session_init(&session, 0));
	WORKS(vaccel_resource_init_from_buf(&lent, bytes, sizeof(bytes), VACCEL_RESOURCE_DATA, NULL, true));
	CHECK(lent.nr_blobs == 1 && lent.blobs[0]->data == (uint8_t *)bytes && !lent.rundir && !lent.paths);
	RETURNS(VACCEL_EPERM, vaccel_resource_sync(&lent, &session));
	WORKS(vaccel_resource_register(&lent, &session));
	WORKS(vaccel_resource_sync(&lent, &session));
	WORKS(vaccel_resource_init_from_buf(&kept, bytes, sizeof(bytes), VACCEL_RESOURCE_LIB, "lib.so", false));
	CHECK(kept.rundir && is_there(kept.rundir) && is_there(kept.blobs[0]->path) && kept.blobs[0]->path_owned);
	WORKS(vaccel_resource_register(&kept, &session));
	RETURNS(VACCEL_EINVAL, vaccel_resource_sync(&kept, &session));
	WORKS(vaccel_resource_from_buf(&heap, bytes, sizeof(bytes), VACCEL_RESOURCE_LIB, NULL, false));
	CHECK(is_there(heap->blobs[0]->path));

	// Blobs of all kinds: the resource has its own.
	struct vaccel_blob file, buffer;
	WORKS(vaccel_blob_init(&file, write_file("blob", "file", 4)));
	WORKS(vaccel_blob_init_from_buf(&buffer, (const uint8_t *)"buffer", 6, true, "buffer", NULL, false));
	const struct vaccel_blob *blobs[] = { &file, &buffer, kept.blobs[0] };
	WORKS(vaccel_resource_init_from_blobs(&made, blobs, 3, VACCEL_RESOURCE_DATA));
	CHECK(made.nr_blobs == 3 && made.blobs[0] != &file && !strcmp(made.blobs[0]->path, file.path));
	CHECK(made.blobs[1]->data != buffer.data && !memcmp(made.blobs[1]->data, "buffer", 6));
	CHECK(strcmp(made.blobs[2]->path, kept.blobs[0]->path) && !strcmp(made.blobs[2]->name, "lib.so"));
	WORKS(vaccel_blob_release(&buffer));
	WORKS(vaccel_resource_register(&made, &session));
	char rundir[PATH_MAX];
	strcpy(rundir, made.rundir);
	WORKS(vaccel_resource_release(&made));
	CHECK(!is_there(rundir) && is_there(file.path));
	REFUSED(vaccel_resource_init_from_blobs(&made, (const struct vaccel_blob *[]){ &file, &buffer }, 2,
						VACCEL_RESOURCE_DATA));
	struct vaccel_resource *of_blobs = NULL;
	WORKS(vaccel_resource_from_blobs(&of_blobs, blobs, 1, VACCEL_RESOURCE_DATA));
	WORKS(vaccel_resource_delete(of_blobs));
	REFUSED(vaccel_resource_from_blobs(NULL, blobs, 1, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_from_blobs(&of_blobs, blobs, 0, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init_from_blobs(&made, NULL, 1, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init_from_blobs(NULL, blobs, 1, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init_from_blobs(&made, (const struct vaccel_blob *[]){ NULL }, 1, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_resource_init_from_blobs(&made, blobs, 1, VACCEL_RESOURCE_MAX));
	WORKS(vaccel_blob_release(&file));

	REFUSED(vaccel_resource_init_from_buf(&made, NULL, 4, VACCEL_RESOURCE_DATA, NULL, true));
	REFUSED(vaccel_resource_init_from_buf(&made, bytes, 0, VACCEL_RESOURCE_DATA, NULL, true));
	REFUSED(vaccel_resource_init_from_buf(&made, bytes, 4, VACCEL_RESOURCE_MAX, NULL, true));
	REFUSED(vaccel_resource_init_from_buf(&made, bytes, 4, VACCEL_RESOURCE_DATA, "../escaped", false));
	REFUSED(vaccel_resource_init_from_buf(NULL, bytes, 4, VACCEL_RESOURCE_DATA, NULL, true));
	REFUSED(vaccel_resource_from_buf(NULL, bytes, 4, VACCEL_RESOURCE_DATA, NULL, true));
	REFUSED(vaccel_resource_from_buf(&of_blobs, bytes, 0, VACCEL_RESOURCE_DATA, NULL, true));
	REFUSED(vaccel_resource_register(NULL, &session));
	REFUSED(vaccel_resource_register(&lent, NULL));
	REFUSED(vaccel_resource_unregister(NULL, &session));
	REFUSED(vaccel_resource_unregister(&lent, NULL));
	REFUSED(vaccel_resource_sync(NULL, &session));
	REFUSED(vaccel_resource_sync(&lent, NULL));
	WORKS(vaccel_session_release(&session));
	char path[PATH_MAX];
	strcpy(path, heap->blobs[0]->path);
	WORKS(vaccel_resource_delete(heap));
	CHECK(!is_there(path));
	WORKS(vaccel_resource_release(&lent));
	WORKS(vaccel_resource_release(&kept));
	CHECK(!memcmp(bytes, "in memory", 9));
}

int main(int count, char **values)
{
	arguments(count, values);
	files();
	folders();
	memory();
	// More than vAccel had room for.
	enum { MANY = 3000 };
	static struct vaccel_resource many[MANY];
	for (int i = 0; i < MANY; i++)
		WORKS(vaccel_resource_init_from_buf(&many[i], "x", 1, VACCEL_RESOURCE_DATA, NULL, true));
	for (int i = 0; i < MANY; i++)
		WORKS(vaccel_resource_release(&many[i]));
	return 0;
}
