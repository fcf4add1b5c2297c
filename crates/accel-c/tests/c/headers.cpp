// The headers in C++, each of them alone as well.
#include "vaccel.h"

int main()
{
	struct vaccel_session *session = nullptr;
	vaccel_resource resource{};
	resource.refcount = 3;
	if (vaccel_session_init(session, VACCEL_PLUGIN_CPU) != VACCEL_EINVAL || vaccel_noop(session) != VACCEL_EINVAL)
		return 1;
	return vaccel_resource_refcount(&resource) == 3 ? 0 : 1;
}
