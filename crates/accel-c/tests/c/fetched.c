// Resources by address, where the operator allows it. TEST_URL begins what is allowed, and what is not.
#include "check.h"

int main(void)
{
	struct vaccel_session session;
	struct vaccel_resource resource, two;
	char allowed[256], missing[256], other[256], path[512];
	CHECK(getenv("TEST_URL"));
	CHECK(snprintf(allowed, sizeof(allowed), "%s/open/model.onnx", getenv("TEST_URL")) < (int)sizeof(allowed));
	CHECK(snprintf(missing, sizeof(missing), "%s/open/missing", getenv("TEST_URL")) < (int)sizeof(missing));
	CHECK(snprintf(other, sizeof(other), "%s/closed/model.onnx", getenv("TEST_URL")) < (int)sizeof(other));
	WORKS(vaccel_session_init(&session, 0));

	WORKS(vaccel_resource_init(&resource, allowed, VACCEL_RESOURCE_MODEL));
	CHECK(resource.path_type == VACCEL_PATH_REMOTE_FILE && resource.nr_blobs == 0);
	WORKS(vaccel_resource_register(&resource, &session));
	CHECK(resource.nr_blobs == 1);
	CHECK(resource.blobs[0]->size == 9 && !memcmp(resource.blobs[0]->data, "the model", 9));
	// It is a file, for plugins that open one, and goes with the resource.
	CHECK(snprintf(path, sizeof(path), "%s", vaccel_blob_path(resource.blobs[0])) > 0);
	CHECK(strstr(path, "/model.onnx") && !access(path, R_OK));
	WORKS(vaccel_resource_unregister(&resource, &session));
	WORKS(vaccel_resource_release(&resource));
	CHECK(access(path, R_OK));

	WORKS(vaccel_resource_init_multi(&two, (const char *[]){ allowed, allowed }, 2, VACCEL_RESOURCE_DATA));
	WORKS(vaccel_resource_register(&two, &session));
	CHECK(two.nr_blobs == 2 && strcmp(vaccel_blob_path(two.blobs[0]), vaccel_blob_path(two.blobs[1])));
	WORKS(vaccel_resource_unregister(&two, &session));
	WORKS(vaccel_resource_release(&two));

	WORKS(vaccel_resource_init(&resource, missing, VACCEL_RESOURCE_MODEL));
	RETURNS(VACCEL_ENOENT, vaccel_resource_register(&resource, &session));
	WORKS(vaccel_resource_release(&resource));
	WORKS(vaccel_resource_init(&resource, other, VACCEL_RESOURCE_MODEL));
	RETURNS(VACCEL_ENOTSUP, vaccel_resource_register(&resource, &session));
	WORKS(vaccel_resource_release(&resource));
	WORKS(vaccel_session_release(&session));
	return 0;
}
