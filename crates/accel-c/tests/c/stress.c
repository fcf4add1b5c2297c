// Many threads at once: sessions, resources that they share, operations, plugins, releases that race.
#include "check.h"

enum { THREADS = 8 };

static struct vaccel_resource shared, contested;
static struct vaccel_session common;
static int released;
static pthread_barrier_t barrier;

static int rounds(void)
{
	const char *rounds = getenv("STRESS_ROUNDS");
	return rounds ? atoi(rounds) : 200;
}

static void *work(void *data)
{
	long number = (long)data;
	for (int i = 0; i < rounds(); i++) {
		struct vaccel_session session;
		struct vaccel_resource own;
		float a[4] = { 1, 0, 0, 1 }, b[4] = { 2, 3, 4, 5 }, c[4];
		WORKS(vaccel_session_init(&session, number % 2 ? VACCEL_PLUGIN_FPGA : VACCEL_PLUGIN_CPU));
		WORKS(vaccel_resource_init_from_buf(&own, "own", 3, VACCEL_RESOURCE_DATA, NULL, true));
		WORKS(vaccel_resource_register(&own, &session));
		WORKS(vaccel_resource_register(&shared, &session));
		WORKS(vaccel_noop(&session));
		WORKS(vaccel_noop(&common));
		WORKS(vaccel_fpga_vadd(&session, a, b, c, 4, 4));
		CHECK(c[0] == 3 && c[3] == 6);
		struct vaccel_resource *found = NULL;
		WORKS(vaccel_session_resource_by_type(&session, &found, VACCEL_RESOURCE_MODEL));
		CHECK(found == &shared && vaccel_resource_refcount(&shared) > 0);
		CHECK(!vaccel_session_has_resource(&common, &own));
		// Two that register and unregister the same in the same session: each succeeds or is told why not.
		int registered = vaccel_resource_register(&contested, &common);
		CHECK(registered == VACCEL_OK);
		int unregistered = vaccel_resource_unregister(&contested, &common);
		CHECK(unregistered == VACCEL_OK || unregistered == VACCEL_EINVAL);
		// One is released by its session, the other releases itself from it.
		if (i % 2)
			WORKS(vaccel_resource_release(&own));
		WORKS(vaccel_session_release(&session));
		if (i % 2 == 0)
			WORKS(vaccel_resource_release(&own));
	}
	// Of those who release the same, one does.
	pthread_barrier_wait(&barrier);
	if (vaccel_session_release(&common) == VACCEL_OK)
		__atomic_add_fetch(&released, 1, __ATOMIC_SEQ_CST);
	if (vaccel_resource_release(&shared) == VACCEL_OK)
		__atomic_add_fetch(&released, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void *start(void *data)
{
	(void)data;
	CHECK(vaccel_is_initialized());
	return NULL;
}

int main(int count, char **values)
{
	arguments(count, values);
	pthread_t threads[THREADS];
	// Whoever comes first starts the library.
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, start, NULL));
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_join(threads[i], NULL));
	WORKS(vaccel_plugin_load(in(plugins, "libthird.so")));
	WORKS(vaccel_session_init(&common, 0));
	WORKS(vaccel_resource_init(&shared, write_file("shared", "weights", 7), VACCEL_RESOURCE_MODEL));
	WORKS(vaccel_resource_init_from_buf(&contested, "x", 1, VACCEL_RESOURCE_LIB, NULL, true));
	CHECK(!pthread_barrier_init(&barrier, NULL, THREADS));
	for (long i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, work, (void *)i));
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_join(threads[i], NULL));
	RETURNS(2, released);
	RETURNS(0, vaccel_resource_refcount(&contested));
	WORKS(vaccel_resource_release(&contested));
	pthread_barrier_destroy(&barrier);
	return 0;
}
