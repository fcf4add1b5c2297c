// Sessions: made, found, updated, released, with their resources.
#include "check.h"

int main(int count, char **values)
{
	arguments(count, values);
	struct vaccel_session session, *heap = NULL, *found = NULL;
	CHECK(vaccel_is_initialized());
	WORKS(vaccel_session_init(&session, VACCEL_PLUGIN_CPU));
	CHECK(session.id > 0 && session.hint == VACCEL_PLUGIN_CPU && !session.is_virtio && !session.priv);
	CHECK(session.plugin && session.plugin->info && session.plugin->info->name);
	// Kernlet's own plugins want no folder.
	CHECK(!session.rundir[0]);
	for (int i = 0; i < VACCEL_RESOURCE_MAX; i++)
		CHECK(session.resources[i].next == &session.resources[i] && !session.resource_counts[i]);
	WORKS(vaccel_session_get_by_id(&found, session.id));
	CHECK(found == &session);
	RETURNS(VACCEL_ENOENT, vaccel_session_get_by_id(&found, 123456));
	REFUSED(vaccel_session_get_by_id(NULL, session.id));
	WORKS(vaccel_session_new(&heap, 0));
	CHECK(heap->id > session.id);
	WORKS(vaccel_session_delete(heap));
	WORKS(vaccel_session_update(&session, VACCEL_PLUGIN_SOFTWARE));
	CHECK(session.hint == VACCEL_PLUGIN_SOFTWARE);
	WORKS(vaccel_sess_update(&session, 0));

	struct vaccel_resource data, other, model, *got = NULL, **all = NULL;
	size_t size = 99;
	WORKS(vaccel_resource_init_from_buf(&data, "a", 1, VACCEL_RESOURCE_DATA, NULL, true));
	WORKS(vaccel_resource_init_from_buf(&other, "b", 1, VACCEL_RESOURCE_DATA, NULL, true));
	WORKS(vaccel_resource_init_from_buf(&model, "c", 1, VACCEL_RESOURCE_MODEL, NULL, true));
	RETURNS(VACCEL_ENOENT, vaccel_session_resource_by_type(&session, &got, VACCEL_RESOURCE_DATA));
	RETURNS(VACCEL_ENOENT, vaccel_session_resources_by_type(&session, &all, &size, VACCEL_RESOURCE_DATA));
	RETURNS(0, size);
	// The first registered is the first, not the first made.
	WORKS(vaccel_resource_register(&other, &session));
	WORKS(vaccel_resource_register(&data, &session));
	WORKS(vaccel_resource_register(&model, &session));
	WORKS(vaccel_session_resource_by_type(&session, &got, VACCEL_RESOURCE_DATA));
	CHECK(got == &other);
	WORKS(vaccel_session_resources_by_type(&session, &all, &size, VACCEL_RESOURCE_DATA));
	CHECK(size == 2 && all[0] == &other && all[1] == &data && session.resource_counts[VACCEL_RESOURCE_DATA] == 2);
	free(all);
	WORKS(vaccel_session_resource_by_id(&session, &got, model.id));
	CHECK(got == &model);
	RETURNS(VACCEL_ENOENT, vaccel_session_resource_by_id(&session, &got, 123456));
	RETURNS(VACCEL_ENOENT, vaccel_session_resource_by_type(&session, &got, VACCEL_RESOURCE_LIB));
	RETURNS(VACCEL_ENOTSUP, vaccel_session_update(&session, 0));
	CHECK(vaccel_session_has_resource(&session, &data) && vaccel_sess_has_resource(&session, &model));

	REFUSED(vaccel_session_resource_by_id(NULL, &got, 1));
	REFUSED(vaccel_session_resource_by_id(&session, NULL, 1));
	REFUSED(vaccel_session_resource_by_id(&session, &got, 0));
	REFUSED(vaccel_session_resource_by_type(NULL, &got, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_session_resource_by_type(&session, NULL, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_session_resource_by_type(&session, &got, VACCEL_RESOURCE_MAX));
	REFUSED(vaccel_session_resources_by_type(NULL, &all, &size, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_session_resources_by_type(&session, NULL, &size, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_session_resources_by_type(&session, &all, NULL, VACCEL_RESOURCE_DATA));
	REFUSED(vaccel_session_resources_by_type(&session, &all, &size, VACCEL_RESOURCE_MAX));
	CHECK(!vaccel_session_has_resource(NULL, &data) && !vaccel_session_has_resource(&session, NULL));
	CHECK(!vaccel_sess_has_resource(NULL, NULL));

	WORKS(vaccel_session_release(&session));
	CHECK(!session.id && !session.plugin);
	RETURNS(0, vaccel_resource_refcount(&data));
	CHECK(!vaccel_session_has_resource(&session, &data));
	REFUSED(vaccel_session_release(&session));
	REFUSED(vaccel_noop(&session));
	WORKS(vaccel_resource_release(&data));
	WORKS(vaccel_resource_release(&other));
	WORKS(vaccel_resource_release(&model));

	// A session or a resource that was left without releasing it, and whose place is taken by another.
	WORKS(vaccel_resource_init_from_buf(&data, "a", 1, VACCEL_RESOURCE_DATA, NULL, true));
	WORKS(vaccel_session_init(&session, 0));
	WORKS(vaccel_resource_register(&data, &session));
	WORKS(vaccel_session_init(&session, 0));
	RETURNS(0, vaccel_resource_refcount(&data));
	CHECK(data.sessions.next == &data.sessions && !vaccel_session_has_resource(&session, &data));
	WORKS(vaccel_resource_register(&data, &session));
	vaccel_blob_delete(data.blobs[0]);
	free(data.blobs);
	WORKS(vaccel_resource_init_from_buf(&data, "b", 1, VACCEL_RESOURCE_DATA, NULL, true));
	CHECK(!session.resource_counts[VACCEL_RESOURCE_DATA]);
	CHECK(session.resources[VACCEL_RESOURCE_DATA].next == &session.resources[VACCEL_RESOURCE_DATA]);
	WORKS(vaccel_resource_release(&data));
	WORKS(vaccel_session_release(&session));

	// A copy of a session is none, nor is whatever lies where one might be.
	WORKS(vaccel_sess_init(&session, 0));
	struct vaccel_session copy = session;
	REFUSED(vaccel_noop(&copy));
	REFUSED(vaccel_session_release(&copy));
	memset(&copy, 0xa5, sizeof(copy));
	REFUSED(vaccel_noop(&copy));
	REFUSED(vaccel_session_update(&copy, 0));
	WORKS(vaccel_noop(&session));
	WORKS(vaccel_sess_free(&session));
	RETURNS(VACCEL_ENOTSUP, vaccel_session_init(&session, VACCEL_PLUGIN_REMOTE));
	RETURNS(VACCEL_ENOTSUP, vaccel_session_new(&heap, VACCEL_PLUGIN_REMOTE));
	REFUSED(vaccel_session_init(NULL, 0));
	REFUSED(vaccel_session_new(NULL, 0));
	REFUSED(vaccel_sess_init(NULL, 0));
	REFUSED(vaccel_session_release(NULL));
	REFUSED(vaccel_session_delete(NULL));
	REFUSED(vaccel_sess_free(NULL));
	REFUSED(vaccel_session_update(NULL, 0));
	REFUSED(vaccel_sess_update(NULL, 0));

	// More than vAccel had room for; and some that nobody releases.
	enum { MANY = 1500 };
	static struct vaccel_session many[MANY];
	for (int i = 0; i < MANY; i++)
		WORKS(vaccel_session_init(&many[i], 0));
	for (int i = 10; i < MANY; i++)
		WORKS(vaccel_session_release(&many[i]));
	return 0;
}
