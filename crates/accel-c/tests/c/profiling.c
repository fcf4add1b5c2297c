// Profiling regions, with profiling enabled as the environment says, and then without.
#include "check.h"

static struct vaccel_prof_region constant = VACCEL_PROF_REGION_INIT("constant");

int main(int count, char **values)
{
	arguments(count, values);
	CHECK(vaccel_prof_enabled());
	CHECK(!constant.samples);
	RETURNS(VACCEL_ENOENT, vaccel_prof_region_stop(&constant));
	for (int i = 0; i < 3000; i++) {
		WORKS(vaccel_prof_region_start(&constant));
		WORKS(vaccel_prof_region_stop(&constant));
	}
	CHECK(constant.nr_entries == 3000 && constant.size >= 3000 && constant.samples[0].start);
	CHECK(constant.samples[2999].start >= constant.samples[0].start + constant.samples[0].time);
	WORKS(vaccel_prof_region_print(&constant));
	WORKS(vaccel_prof_region_release(&constant));
	CHECK(!constant.samples && !constant.name);

	struct vaccel_prof_region region;
	WORKS(vaccel_prof_region_init(&region, "made"));
	CHECK(region.name_owned && !strcmp(region.name, "made") && region.size && !region.nr_entries);
	WORKS(vaccel_prof_region_print(&region));
	WORKS(vaccel_prof_region_release(&region));

	struct vaccel_prof_region regions[3];
	WORKS(vaccel_prof_regions_init(regions, 3));
	strcpy((char *)regions[0].name, "first");
	strcpy((char *)regions[1].name, "second");
	WORKS(vaccel_prof_regions_start_by_name(regions, 3, "second"));
	WORKS(vaccel_prof_regions_stop_by_name(regions, 3, "second"));
	WORKS(vaccel_prof_regions_start_by_name(regions, 3, "first"));
	WORKS(vaccel_prof_regions_stop_by_name(regions, 3, "first"));
	WORKS(vaccel_prof_regions_start_by_name(regions, 3, "first"));
	WORKS(vaccel_prof_regions_stop_by_name(regions, 3, "first"));
	CHECK(regions[0].nr_entries == 2 && regions[1].nr_entries == 1 && !regions[2].nr_entries);
	REFUSED(vaccel_prof_regions_start_by_name(regions, 3, "third"));
	REFUSED(vaccel_prof_regions_stop_by_name(regions, 3, "third"));
	REFUSED(vaccel_prof_regions_start_by_name(regions, 3, NULL));
	REFUSED(vaccel_prof_regions_start_by_name(NULL, 3, "first"));
	REFUSED(vaccel_prof_regions_stop_by_name(NULL, 3, "first"));
	REFUSED(vaccel_prof_regions_start_by_name(regions, -1, "first"));
	WORKS(vaccel_prof_regions_print_all(regions, 3));
	REFUSED(vaccel_prof_regions_print_all(NULL, 3));

	int size = vaccel_prof_regions_print_all_to_buf(NULL, 0, regions, 3);
	CHECK(size > 60);
	char *text = NULL;
	RETURNS(3, vaccel_prof_regions_print_all_to_buf(&text, size, regions, 3));
	CHECK(strstr(text, "[prof] first: total_time: ") && strstr(text, "nr_entries: 2"));
	CHECK(strstr(text + strlen(text) + 1, "[prof] second: "));
	free(text);
	RETURNS(3, vaccel_prof_regions_print_all_to_buf(&text, 10, regions, 3));
	CHECK(strlen(text) == 9);
	free(text);
	RETURNS(-VACCEL_EINVAL, vaccel_prof_regions_print_all_to_buf(&text, 10, NULL, 3));
	RETURNS(-VACCEL_EINVAL, vaccel_prof_regions_print_all_to_buf(&text, 10, regions, -3));
	WORKS(vaccel_prof_regions_release(regions, 3));
	REFUSED(vaccel_prof_regions_release(NULL, 3));
	REFUSED(vaccel_prof_regions_init(NULL, 3));
	REFUSED(vaccel_prof_region_init(NULL, "a"));
	REFUSED(vaccel_prof_region_start(NULL));
	REFUSED(vaccel_prof_region_stop(NULL));
	REFUSED(vaccel_prof_region_print(NULL));
	REFUSED(vaccel_prof_region_release(NULL));

	struct vaccel_config config;
	WORKS(vaccel_config_init(&config, "noop", VACCEL_LOG_ERROR, NULL, false, false));
	WORKS(vaccel_bootstrap_with_config(&config));
	WORKS(vaccel_config_release(&config));
	CHECK(!vaccel_prof_enabled());
	struct vaccel_prof_region off = VACCEL_PROF_REGION_INIT("off");
	WORKS(vaccel_prof_region_start(&off));
	WORKS(vaccel_prof_region_stop(&off));
	CHECK(!off.nr_entries && !off.samples);
	WORKS(vaccel_prof_region_start(NULL));
	RETURNS(0, vaccel_prof_regions_print_all_to_buf(&text, 10, NULL, 3));
	return 0;
}
