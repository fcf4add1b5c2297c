// The library's configuration, life and log.
#include "check.h"

static void configuration(void)
{
	struct vaccel_config config, copy, *heap = NULL;
	WORKS(vaccel_config_init(&config, "a:b", VACCEL_LOG_INFO, "log", true, true));
	CHECK(!strcmp(config.plugins, "a:b") && config.log_level == VACCEL_LOG_INFO && !strcmp(config.log_file, "log"));
	CHECK(config.profiling_enabled && config.version_ignore);
	WORKS(vaccel_config_init_from(&copy, &config));
	CHECK(copy.plugins != config.plugins && !strcmp(copy.plugins, "a:b") && copy.version_ignore);
	vaccel_config_print_debug(&copy);
	WORKS(vaccel_config_release(&copy));
	CHECK(!copy.plugins && !copy.log_file && copy.log_level == VACCEL_LOG_ERROR && !copy.profiling_enabled);
	WORKS(vaccel_config_from(&heap, &config));
	CHECK(!strcmp(heap->log_file, "log"));
	WORKS(vaccel_config_delete(heap));
	WORKS(vaccel_config_release(&config));
	WORKS(vaccel_config_new(&heap, NULL, VACCEL_LOG_WARN, NULL, false, false));
	CHECK(!heap->plugins && !heap->log_file);
	vaccel_config_print_debug(heap);
	vaccel_config_print_debug(NULL);
	WORKS(vaccel_config_delete(heap));

	CHECK(!unsetenv("VACCEL_PLUGINS") && !setenv("VACCEL_BACKENDS", "old", 1) && !setenv("VACCEL_LOG_LEVEL", "3x", 1));
	CHECK(!setenv("VACCEL_LOG_FILE", "somewhere", 1) && !setenv("VACCEL_PROFILING_ENABLED", "7", 1));
	CHECK(!setenv("VACCEL_IGNORE_VERSION", "1", 1));
	WORKS(vaccel_config_init_from_env(&config));
	CHECK(!strcmp(config.plugins, "old") && config.log_level == VACCEL_LOG_INFO && config.profiling_enabled);
	CHECK(!strcmp(config.log_file, "somewhere") && config.version_ignore);
	WORKS(vaccel_config_release(&config));
	CHECK(!setenv("VACCEL_PLUGINS", "new", 1) && !setenv("VACCEL_VERSION_IGNORE", "0", 1));
	WORKS(vaccel_config_from_env(&heap));
	CHECK(!strcmp(heap->plugins, "new") && !heap->version_ignore);
	WORKS(vaccel_config_delete(heap));
	CHECK(!setenv("VACCEL_LOG_LEVEL", "99999999999999999999999", 1));
	REFUSED(vaccel_config_init_from_env(&config));
	REFUSED(vaccel_config_from_env(&heap));
	REFUSED(vaccel_bootstrap());
	CHECK(!unsetenv("VACCEL_LOG_LEVEL") && !unsetenv("VACCEL_BACKENDS") && !unsetenv("VACCEL_LOG_FILE"));
	CHECK(!unsetenv("VACCEL_PROFILING_ENABLED") && !setenv("VACCEL_PLUGINS", "noop", 1));

	REFUSED(vaccel_config_init(NULL, NULL, VACCEL_LOG_WARN, NULL, false, false));
	REFUSED(vaccel_config_new(NULL, NULL, VACCEL_LOG_WARN, NULL, false, false));
	REFUSED(vaccel_config_init_from_env(NULL));
	REFUSED(vaccel_config_from_env(NULL));
	REFUSED(vaccel_config_init_from(NULL, &config));
	REFUSED(vaccel_config_init_from(&config, NULL));
	REFUSED(vaccel_config_from(NULL, &config));
	REFUSED(vaccel_config_from(&heap, NULL));
	REFUSED(vaccel_config_release(NULL));
	REFUSED(vaccel_config_delete(NULL));
}

static void life(void)
{
	struct vaccel_session session;
	struct vaccel_resource resource;
	struct vaccel_config config;
	char rundir[PATH_MAX];

	WORKS(vaccel_bootstrap());
	CHECK(vaccel_is_initialized() && !strcmp(vaccel_config()->plugins, "noop"));
	strcpy(rundir, vaccel_rundir());
	CHECK(strstr(rundir, "vaccel") && is_there(rundir));
	WORKS(vaccel_session_init(&session, 0));
	WORKS(vaccel_resource_init_from_buf(&resource, "data", 4, VACCEL_RESOURCE_DATA, "kept", false));
	CHECK(is_there(resource.rundir) && !strncmp(resource.rundir, rundir, strlen(rundir)));
	WORKS(vaccel_resource_register(&resource, &session));
	// Starting anew releases what there was.
	WORKS(vaccel_bootstrap());
	CHECK(session.id == 0 && resource.id == 0 && !is_there(rundir));
	REFUSED(vaccel_session_release(&session));
	REFUSED(vaccel_resource_release(&resource));

	WORKS(vaccel_config_init(&config, "nosuchplugin", VACCEL_LOG_ERROR, NULL, false, false));
	RETURNS(VACCEL_ENOENT, vaccel_bootstrap_with_config(&config));
	CHECK(!vaccel_is_initialized());
	RETURNS(VACCEL_ESESS, vaccel_session_init(&session, 0));
	RETURNS(VACCEL_ESESS, vaccel_session_release(&session));
	RETURNS(VACCEL_EPERM, vaccel_resource_init(&resource, folder, VACCEL_RESOURCE_DATA));
	struct vaccel_session *found = NULL;
	RETURNS(VACCEL_EPERM, vaccel_session_get_by_id(&found, 1));
	RETURNS(VACCEL_EBACKEND, vaccel_plugin_load("noop"));
	WORKS(vaccel_config_release(&config));
	REFUSED(vaccel_bootstrap_with_config(NULL));

	const char *log = in(folder, "log.txt");
	WORKS(vaccel_config_init(&config, "noop", VACCEL_LOG_DEBUG, log, true, false));
	WORKS(vaccel_bootstrap_with_config(&config));
	WORKS(vaccel_config_release(&config));
	CHECK(vaccel_is_initialized() && vaccel_prof_enabled() && is_there(log));
	vaccel_info("number %d, text %s, fraction %.2f, %c, %ld, %d, %d, %.1f", 42, "forty-two", 0.25, 'x', -7L, 8, 9, 2.5);
	vaccel_error("%d%%", 100);
	vaccel_debug("debugged");
	vaccel_warn("warned");
	vaccel_trace("traced");
	vaccel_fatal("fatal");
	slog_enable(SLOG_TRACE);
	vaccel_trace("traced %s", "now");
	slog_disable(SLOG_INFO);
	vaccel_info("hidden");
	SLogConfig slog;
	slog_config_get(&slog);
	CHECK((slog.nFlags & SLOG_DEBUG) && !(slog.nFlags & SLOG_INFO));
	slog.nFlags |= SLOG_INFO;
	slog_config_set(&slog);
	vaccel_info("shown again");
	slog_print(SLOG_INFO, 1, NULL);
	slog_config_set(NULL);
	slog_config_get(NULL);
	CHECK(strstr(slog_version(1), "1.8") && strstr(slog_version(0), "build"));
	slog_init("name", SLOG_ERROR, 1);
	vaccel_info("hidden too");
	WORKS(vaccel_log_init());
	vaccel_info("shown after all");
	slog_destroy();
	WORKS(vaccel_log_shutdown());
	WORKS(vaccel_cleanup());
	CHECK(!vaccel_is_initialized());
	WORKS(vaccel_cleanup());
	CHECK(!vaccel_config()->plugins);

	char text[65536] = { 0 };
	FILE *file = fopen(log, "r");
	CHECK(file && fread(text, 1, sizeof(text) - 1, file) > 0);
	fclose(file);
	CHECK(strstr(text, "<info> number 42, text forty-two, fraction 0.25, x, -7, 8, 9, 2.5\n"));
	CHECK(strstr(text, "<error> 100%\n") && strstr(text, "<debug> debugged\n") && strstr(text, "<warn> warned\n"));
	CHECK(strstr(text, "config.c:") && strstr(text, "traced now\n") && strstr(text, "shown again\n"));
	CHECK(!strstr(text, "hidden") && strstr(text, "shown after all\n"));
}

int main(int count, char **values)
{
	arguments(count, values);
	// It starts by itself, unless it is told not to.
	CHECK(!setenv("VACCEL_BOOTSTRAP_ENABLED", "0", 1));
	CHECK(!vaccel_is_initialized());
	configuration();
	life();
	return 0;
}
