// Plugin libraries of somebody else's: loaded, refused, chosen by a session's hint, called, unloaded.
#include "check.h"
#include <dlfcn.h>

static int *calls(const char *name)
{
	void *library = dlopen(in(plugins, name), RTLD_NOW | RTLD_NOLOAD);
	CHECK(library);
	int *calls = dlsym(library, "third_party_calls");
	CHECK(calls);
	return calls;
}

static void refused(void)
{
	RETURNS(VACCEL_ENOENT, vaccel_plugin_load("libnothing.so"));
	RETURNS(VACCEL_ENOENT, vaccel_plugin_load(write_file("nolib.so", "nothing", 7)));
	RETURNS(VACCEL_ELIBBAD, vaccel_plugin_load("libc.so.6"));
	REFUSED(vaccel_plugin_load(NULL));
	REFUSED(vaccel_plugin_parse_and_load(NULL));
	REFUSED(vaccel_plugin_load(in(plugins, "libmajor.so")));
	REFUSED(vaccel_plugin_load(in(plugins, "libnoversion.so")));
	REFUSED(vaccel_plugin_load(in(plugins, "libnoname.so")));
	REFUSED(vaccel_plugin_load(in(plugins, "libnoinit.so")));
	RETURNS(VACCEL_ENODEV, vaccel_plugin_load(in(plugins, "libfails.so")));
	struct vaccel_op op = { VACCEL_OP_NOOP, NULL, NULL };
	REFUSED(vaccel_plugin_register_ops(&op, 1));
	REFUSED(vaccel_plugin_register_ops(NULL, 1));
	REFUSED(vaccel_plugin_register_ops(&op, 0));
	REFUSED(vaccel_plugin_register_ops(&op, 25));
	struct vaccel_plugin owner = { 0 };
	op.owner = &owner;
	op.type = VACCEL_OP_MAX;
	REFUSED(vaccel_plugin_register_ops(&op, 1));
	op.type = VACCEL_OP_OPENCV;
	WORKS(vaccel_plugin_register_ops(&op, 1));
	CHECK(owner.ops[VACCEL_OP_OPENCV] == &op);
}

int main(int count, char **values)
{
	arguments(count, values);
	struct vaccel_session session, other;
	struct vaccel_resource resource, buffer;
	struct vaccel_config config;
	char list[3 * PATH_MAX];

	start_with("rten:gemm");
	refused();
	snprintf(list, sizeof(list), "%s:%s:", in(plugins, "libthird.so"), in(plugins, "libminor.so"));
	WORKS(vaccel_plugin_parse_and_load(list));
	RETURNS(VACCEL_EEXIST, vaccel_plugin_load(in(plugins, "libthird.so")));
	RETURNS(1, calls("libthird.so")[0]);
	// Without a hint, the first is chosen.
	WORKS(vaccel_session_init(&session, 0));
	CHECK(!strcmp(session.plugin->info->name, "kernlet"));
	WORKS(vaccel_session_release(&session));
	WORKS(vaccel_session_init(&session, VACCEL_PLUGIN_FPGA));
	CHECK(!strcmp(session.plugin->info->name, "third") && session.plugin->dl_handle);
	char rundir[PATH_MAX];
	strcpy(rundir, session.rundir);
	CHECK(is_there(rundir));
	WORKS(vaccel_session_update(&session, VACCEL_PLUGIN_TORCH));
	CHECK(!strcmp(session.plugin->info->name, "minor"));
	// It has noop only: what it does not have goes to another.
	float a[1] = { 2 }, b[1] = { 3 }, c[1] = { 0 };
	WORKS(vaccel_noop(&session));
	WORKS(vaccel_sgemm(&session, 1, 1, 1, 1, a, 1, b, 1, 0, c, 1));
	CHECK(c[0] == 6);
	struct vaccel_arg number = { (int32_t[]){ 5 }, 4, VACCEL_ARG_INT32, 0, false };
	struct vaccel_arg result = { (int32_t[]){ 0 }, 4, VACCEL_ARG_INT32, 0, false };
	WORKS(vaccel_exec(&session, "library", "symbol", &number, 1, &result, 1));
	CHECK(*(int32_t *)result.buf == 5);
	WORKS(vaccel_session_update(&session, VACCEL_PLUGIN_FPGA));
	CHECK(!strcmp(session.plugin->info->name, "third"));
	WORKS(vaccel_session_init(&other, VACCEL_PLUGIN_FPGA));

	// Its resources are the plugin's to know of, once a session.
	WORKS(vaccel_resource_init(&resource, write_file("model", "weights", 7), VACCEL_RESOURCE_MODEL));
	WORKS(vaccel_resource_init_from_buf(&buffer, strcpy(list, "buffer"), 6, VACCEL_RESOURCE_DATA, NULL, true));
	WORKS(vaccel_resource_register(&resource, &session));
	WORKS(vaccel_resource_register(&resource, &session));
	WORKS(vaccel_resource_register(&resource, &other));
	WORKS(vaccel_resource_register(&buffer, &session));
	RETURNS(3, calls("libthird.so")[5]);
	WORKS(vaccel_resource_sync(&buffer, &session));
	CHECK(list[0] == 'S' && calls("libthird.so")[7] == 1);
	WORKS(vaccel_session_release(&session));
	CHECK(!is_there(rundir));
	RETURNS(2, calls("libthird.so")[6]);
	WORKS(vaccel_resource_release(&resource));
	RETURNS(3, calls("libthird.so")[6]);
	WORKS(vaccel_session_release(&other));
	WORKS(vaccel_resource_release(&buffer));
	RETURNS(0, calls("libthird.so")[2]);

	// A plugin of another version is loaded when that is to be ignored.
	WORKS(vaccel_config_init(&config, in(plugins, "libmajor.so"), VACCEL_LOG_ERROR, NULL, false, true));
	WORKS(vaccel_bootstrap_with_config(&config));
	CHECK(!dlopen(in(plugins, "libthird.so"), RTLD_NOW | RTLD_NOLOAD) || calls("libthird.so")[1] == 1);
	WORKS(vaccel_session_init(&session, 0));
	CHECK(!strcmp(session.plugin->info->name, "major"));
	WORKS(vaccel_noop(&session));
	// Nothing but what the configuration names.
	RETURNS(VACCEL_ENOTSUP, vaccel_minmax(&session, (double[]){ 1 }, 1, 0, 1, (double[]){ 0 }, (double[]){ 0 }, (double[]){ 0 }));
	WORKS(vaccel_session_release(&session));
	WORKS(vaccel_config_release(&config));

	// A remote plugin gets sessions and resources, with their content.
	start_with(in(plugins, "libremote.so"));
	WORKS(vaccel_session_init(&session, 0));
	CHECK(session.is_virtio && session.remote_id == 1000 + session.id);
	WORKS(vaccel_session_init(&other, VACCEL_PLUGIN_REMOTE | VACCEL_PLUGIN_CPU));
	CHECK(other.is_virtio);
	WORKS(vaccel_resource_init(&resource, in(folder, "model"), VACCEL_RESOURCE_MODEL));
	WORKS(vaccel_resource_register(&resource, &session));
	CHECK(resource.remote_id == 2000 + resource.id && !memcmp(resource.blobs[0]->data, "weights", 7));
	WORKS(vaccel_session_update(&session, VACCEL_PLUGIN_REMOTE | 1));
	CHECK(session.hint == 1 && calls("libremote.so")[4] == 1);
	WORKS(vaccel_noop(&session));
	RETURNS(VACCEL_ENOTSUP, vaccel_sgemm(&session, 1, 1, 1, 1, a, 1, b, 1, 0, c, 1));
	struct vaccel_session failed;
	RETURNS(VACCEL_ENODEV, vaccel_session_init(&failed, VACCEL_PLUGIN_REMOTE | VACCEL_PLUGIN_GPU));
	CHECK(failed.id == 0);
	WORKS(vaccel_session_release(&session));
	WORKS(vaccel_session_release(&other));
	CHECK(calls("libremote.so")[2] == 3 && calls("libremote.so")[3] == 2 && calls("libremote.so")[6] == 1);
	// A local one beside it is what a session without that flag gets.
	WORKS(vaccel_plugin_load("noop"));
	WORKS(vaccel_plugin_load("libvaccel-noop.so"));
	WORKS(vaccel_session_init(&session, 0));
	CHECK(!session.is_virtio && !strcmp(session.plugin->info->name, "kernlet"));
	WORKS(vaccel_noop(&session));
	WORKS(vaccel_session_release(&session));
	WORKS(vaccel_resource_release(&resource));

	// One that is loaded by its name goes before those that are there anyway.
	if (getenv("ALL_PLUGINS")) {
		start_with(NULL);
		WORKS(vaccel_plugin_load(in(plugins, "libthird.so")));
		WORKS(vaccel_session_init(&session, 0));
		CHECK(!strcmp(session.plugin->info->name, "third"));
		WORKS(vaccel_session_update(&session, VACCEL_PLUGIN_SOFTWARE));
		CHECK(!strcmp(session.plugin->info->name, "kernlet"));
		WORKS(vaccel_noop(&session));
		WORKS(vaccel_session_release(&session));
	}
	WORKS(vaccel_cleanup());
	return 0;
}
