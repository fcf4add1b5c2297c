// Arguments and arrays of them: every type, in and out, and whatever is wrong with them.
#include "check.h"

static void single(void)
{
	const char text[] = "hello";
	struct vaccel_arg arg, *heap = NULL;
	WORKS(vaccel_arg_init(&arg, text, sizeof(text), VACCEL_ARG_STRING, 7));
	CHECK(arg.owned && arg.buf != text && !strcmp(arg.buf, text) && arg.size == 6);
	CHECK(arg.type == VACCEL_ARG_STRING && arg.custom_type_id == 7);
	WORKS(vaccel_arg_release(&arg));
	CHECK(!arg.buf && !arg.size && arg.type == VACCEL_ARG_MAX && !arg.owned);
	WORKS(vaccel_arg_init(&arg, NULL, 3, VACCEL_ARG_BUFFER, 0));
	CHECK(!memcmp(arg.buf, "\0\0\0", 3));
	WORKS(vaccel_arg_release(&arg));
	WORKS(vaccel_arg_init(&arg, NULL, 0, VACCEL_ARG_RAW, 0));
	CHECK(!arg.buf);
	WORKS(vaccel_arg_release(&arg));
	REFUSED(vaccel_arg_init(&arg, text, 0, VACCEL_ARG_RAW, 0));
	REFUSED(vaccel_arg_init(NULL, text, 1, VACCEL_ARG_RAW, 0));

	char lent[4];
	WORKS(vaccel_arg_init_from_buf(&arg, lent, 4, VACCEL_ARG_BUFFER, 0));
	CHECK(arg.buf == lent && !arg.owned);
	WORKS(vaccel_arg_release(&arg));
	REFUSED(vaccel_arg_init_from_buf(&arg, lent, 0, VACCEL_ARG_BUFFER, 0));
	REFUSED(vaccel_arg_init_from_buf(&arg, NULL, 4, VACCEL_ARG_BUFFER, 0));
	REFUSED(vaccel_arg_init_from_buf(NULL, lent, 4, VACCEL_ARG_BUFFER, 0));
	REFUSED(vaccel_arg_release(NULL));

	WORKS(vaccel_arg_new(&heap, text, sizeof(text), VACCEL_ARG_STRING, 0));
	CHECK(heap->owned);
	WORKS(vaccel_arg_delete(heap));
	WORKS(vaccel_arg_from_buf(&heap, lent, 4, VACCEL_ARG_RAW, 0));
	CHECK(heap->buf == lent);
	WORKS(vaccel_arg_delete(heap));
	REFUSED(vaccel_arg_new(NULL, text, 1, VACCEL_ARG_RAW, 0));
	REFUSED(vaccel_arg_new(&heap, text, 0, VACCEL_ARG_RAW, 0));
	REFUSED(vaccel_arg_from_buf(NULL, lent, 4, VACCEL_ARG_RAW, 0));
	REFUSED(vaccel_arg_from_buf(&heap, NULL, 4, VACCEL_ARG_RAW, 0));
	REFUSED(vaccel_arg_delete(NULL));
	// No memory of that size, rather than a crash.
	CHECK(vaccel_arg_init(&arg, NULL, (size_t)1 << 60, VACCEL_ARG_RAW, 0) == VACCEL_ENOMEM);
}

// Each number type: added, read back, written, in order; and with another type, another size, from nowhere, past the end.
#define NUMBERS(NAME, TYPE, ONE, MANY)                                                             \
	static void test_##NAME(void)                                                              \
	{                                                                                          \
		TYPE one = 1, many[3] = { 1, 0, 1 }, read = 0, new_one = 0, new_many[2] = { 0, 1 }; \
		TYPE *lent = NULL;                                                                 \
		size_t count = 0;                                                                  \
		struct vaccel_arg_array array, wrong;                                              \
		WORKS(vaccel_arg_array_init(&array, 1));                                           \
		WORKS(vaccel_arg_array_add_##NAME(&array, &one));                                  \
		WORKS(vaccel_arg_array_add_##NAME##_array(&array, many, 3));                       \
		CHECK(array.count == 2 && array.args[0].type == ONE && array.args[1].type == MANY); \
		CHECK(array.args[0].buf == &one && array.args[1].size == sizeof(many));            \
		REFUSED(vaccel_arg_array_get_##NAME##_array(&array, &lent, &count));               \
		WORKS(vaccel_arg_array_get_##NAME(&array, &read));                                 \
		CHECK(read == 1 && array.position == 1);                                           \
		REFUSED(vaccel_arg_array_get_##NAME(&array, &read));                               \
		WORKS(vaccel_arg_array_get_##NAME##_array(&array, &lent, &count));                 \
		CHECK(lent == many && count == 3);                                                 \
		RETURNS(VACCEL_ERANGE, vaccel_arg_array_get_##NAME(&array, &read));                \
		RETURNS(VACCEL_ERANGE, vaccel_arg_array_get_##NAME##_array(&array, &lent, NULL));  \
		RETURNS(VACCEL_ERANGE, vaccel_arg_array_set_##NAME(&array, &one));                 \
		RETURNS(VACCEL_ERANGE, vaccel_arg_array_set_##NAME##_array(&array, many, 1));      \
		vaccel_arg_array_reset_position(&array);                                           \
		REFUSED(vaccel_arg_array_set_##NAME##_array(&array, new_many, 1));                 \
		WORKS(vaccel_arg_array_set_##NAME(&array, &new_one));                              \
		REFUSED(vaccel_arg_array_set_##NAME##_array(&array, many, 4));                     \
		WORKS(vaccel_arg_array_set_##NAME##_array(&array, new_many, 2));                   \
		CHECK(one == 0 && many[0] == 0 && many[1] == 1 && many[2] == 1);                   \
		REFUSED(vaccel_arg_array_add_##NAME(&array, NULL));                                \
		REFUSED(vaccel_arg_array_add_##NAME##_array(&array, NULL, 1));                     \
		REFUSED(vaccel_arg_array_add_##NAME##_array(&array, many, 0));                     \
		REFUSED(vaccel_arg_array_add_##NAME##_array(&array, many, (size_t)-1));            \
		REFUSED(vaccel_arg_array_add_##NAME(NULL, &one));                                  \
		REFUSED(vaccel_arg_array_add_##NAME##_array(NULL, many, 1));                       \
		REFUSED(vaccel_arg_array_get_##NAME(NULL, &read));                                 \
		REFUSED(vaccel_arg_array_get_##NAME(&array, NULL));                                \
		REFUSED(vaccel_arg_array_get_##NAME##_array(NULL, &lent, NULL));                   \
		REFUSED(vaccel_arg_array_get_##NAME##_array(&array, NULL, NULL));                  \
		REFUSED(vaccel_arg_array_set_##NAME(NULL, &one));                                  \
		REFUSED(vaccel_arg_array_set_##NAME(&array, NULL));                                \
		REFUSED(vaccel_arg_array_set_##NAME##_array(NULL, many, 1));                       \
		REFUSED(vaccel_arg_array_set_##NAME##_array(&array, NULL, 1));                     \
		WORKS(vaccel_arg_array_release(&array));                                           \
		/* An argument that says another size than its type has. */                       \
		struct vaccel_arg lies[2] = { { &one, sizeof(TYPE) + 1, ONE, 0, false },           \
					      { many, 0, MANY, 0, false } };                       \
		WORKS(vaccel_arg_array_wrap(&wrong, lies, 2));                                     \
		REFUSED(vaccel_arg_array_get_##NAME(&wrong, &read));                               \
		REFUSED(vaccel_arg_array_set_##NAME(&wrong, &one));                                \
		vaccel_arg_array_set_position(&wrong, 1);                                          \
		REFUSED(vaccel_arg_array_get_##NAME##_array(&wrong, &lent, NULL));                 \
		REFUSED(vaccel_arg_array_set_##NAME##_array(&wrong, many, 1));                     \
	}

VACCEL_ARG_NUMERIC_TYPES(NUMBERS)
#define RUN(NAME, TYPE, ONE, MANY) test_##NAME();

static bool is_even(const void *buf, size_t size, uint32_t id)
{
	return buf && size % 2 == 0 && id == 42;
}

static int serialize(const void *data, size_t size, uint32_t id, void **buf, size_t *made)
{
	if (id == 13)
		return VACCEL_EIO;
	*buf = malloc(size);
	memcpy(*buf, data, size);
	*made = size;
	return VACCEL_OK;
}

static int deserialize(const void *buf, size_t size, uint32_t id, size_t room, void *data)
{
	(void)id;
	if (size > room)
		return VACCEL_ERANGE;
	memcpy(data, buf, size);
	return VACCEL_OK;
}

static void others(void)
{
	struct vaccel_arg_array array;
	char text[8] = "text", buffer[4] = "abcd", raw[2] = "r", custom[4] = "even", *read = NULL;
	void *buf = NULL;
	size_t size = 0;
	WORKS(vaccel_arg_array_init(&array, 0));
	CHECK(array.capacity > 0 && array.owned);
	WORKS(vaccel_arg_array_add_raw(&array, raw, 2));
	WORKS(vaccel_arg_array_add_string(&array, text));
	WORKS(vaccel_arg_array_add_buffer(&array, buffer, 4));
	WORKS(vaccel_arg_array_add_custom(&array, 42, custom, 4, is_even));
	WORKS(vaccel_arg_array_add_serialized(&array, VACCEL_ARG_CUSTOM, 5, "data", 5, serialize));
	WORKS(vaccel_arg_array_add_raw(&array, NULL, 0));
	RETURNS(6, vaccel_arg_array_count(&array));
	RETURNS(6, vaccel_arg_array_remaining_count(&array));
	CHECK(vaccel_arg_array_raw(&array) == array.args && array.args[4].owned);

	REFUSED(vaccel_arg_array_add_raw(&array, raw, 0));
	REFUSED(vaccel_arg_array_add_raw(NULL, raw, 2));
	REFUSED(vaccel_arg_array_add_string(&array, NULL));
	REFUSED(vaccel_arg_array_add_string(NULL, text));
	REFUSED(vaccel_arg_array_add_buffer(&array, NULL, 4));
	REFUSED(vaccel_arg_array_add_buffer(&array, buffer, 0));
	REFUSED(vaccel_arg_array_add_buffer(NULL, buffer, 4));
	REFUSED(vaccel_arg_array_add_custom(&array, 42, custom, 3, is_even));
	REFUSED(vaccel_arg_array_add_custom(&array, 42, custom, 4, NULL));
	REFUSED(vaccel_arg_array_add_custom(NULL, 42, custom, 4, is_even));
	REFUSED(vaccel_arg_array_add_serialized(&array, VACCEL_ARG_CUSTOM, 5, "data", 5, NULL));
	REFUSED(vaccel_arg_array_add_serialized(NULL, VACCEL_ARG_CUSTOM, 5, "data", 5, serialize));
	RETURNS(VACCEL_EIO, vaccel_arg_array_add_serialized(&array, VACCEL_ARG_CUSTOM, 13, "data", 5, serialize));
	// What does not fit its type is freed again.
	REFUSED(vaccel_arg_array_add_serialized(&array, VACCEL_ARG_STRING, 0, "data", 4, serialize));
	REFUSED(vaccel_arg_array_add_serialized(&array, (vaccel_arg_type_t)99, 0, "data", 4, serialize));
	RETURNS(6, vaccel_arg_array_count(&array));

	REFUSED(vaccel_arg_array_get_string(&array, &read));
	REFUSED(vaccel_arg_array_get_buffer(&array, &buf, &size));
	REFUSED(vaccel_arg_array_get_custom(&array, 42, &buf, &size, is_even));
	REFUSED(vaccel_arg_array_get_serialized(&array, VACCEL_ARG_CUSTOM, 5, buffer, 4, deserialize));
	WORKS(vaccel_arg_array_get_raw(&array, &buf, &size));
	CHECK(buf == raw && size == 2);
	REFUSED(vaccel_arg_array_get_raw(&array, &buf, &size));
	WORKS(vaccel_arg_array_get_string(&array, &read));
	CHECK(read == text);
	WORKS(vaccel_arg_array_get_buffer(&array, &buf, &size));
	CHECK(buf == buffer && size == 4);
	REFUSED(vaccel_arg_array_get_custom(&array, 41, &buf, &size, is_even));
	REFUSED(vaccel_arg_array_get_custom(&array, 42, &buf, &size, NULL));
	WORKS(vaccel_arg_array_get_custom(&array, 42, &buf, NULL, is_even));
	CHECK(buf == custom);
	char data[8] = { 0 };
	REFUSED(vaccel_arg_array_get_serialized(&array, VACCEL_ARG_CUSTOM, 6, data, 8, deserialize));
	REFUSED(vaccel_arg_array_get_serialized(&array, VACCEL_ARG_CUSTOM, 5, NULL, 8, deserialize));
	REFUSED(vaccel_arg_array_get_serialized(&array, VACCEL_ARG_CUSTOM, 5, data, 8, NULL));
	REFUSED(vaccel_arg_array_get_serialized(NULL, VACCEL_ARG_CUSTOM, 5, data, 8, deserialize));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_get_serialized(&array, VACCEL_ARG_CUSTOM, 5, data, 2, deserialize));
	WORKS(vaccel_arg_array_get_serialized(&array, VACCEL_ARG_CUSTOM, 5, data, 8, deserialize));
	CHECK(!strcmp(data, "data"));
	RETURNS(5, vaccel_arg_array_position(&array));
	WORKS(vaccel_arg_array_get_raw(&array, &buf, &size));
	CHECK(!buf && !size);
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_get_raw(&array, &buf, &size));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_get_string(&array, &read));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_get_buffer(&array, &buf, &size));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_get_custom(&array, 42, &buf, &size, is_even));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_get_serialized(&array, VACCEL_ARG_CUSTOM, 5, data, 8, deserialize));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_set_raw(&array, raw, 2));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_set_string(&array, text));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_set_buffer(&array, buffer, 4));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_set_custom(&array, 42, custom, 4, is_even));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_set_serialized(&array, VACCEL_ARG_CUSTOM, 5, data, 5, serialize));

	vaccel_arg_array_reset_position(&array);
	REFUSED(vaccel_arg_array_set_raw(&array, "toolong", 8));
	REFUSED(vaccel_arg_array_set_raw(&array, NULL, 0));
	REFUSED(vaccel_arg_array_set_string(&array, text));
	REFUSED(vaccel_arg_array_set_buffer(&array, buffer, 4));
	REFUSED(vaccel_arg_array_set_custom(&array, 42, custom, 4, is_even));
	REFUSED(vaccel_arg_array_set_serialized(&array, VACCEL_ARG_CUSTOM, 5, data, 5, serialize));
	WORKS(vaccel_arg_array_set_raw(&array, "q", 2));
	CHECK(!strcmp(raw, "q"));
	REFUSED(vaccel_arg_array_set_string(&array, "longer"));
	REFUSED(vaccel_arg_array_set_raw(&array, "q", 2));
	WORKS(vaccel_arg_array_set_string(&array, "ab"));
	CHECK(!strcmp(text, "ab"));
	REFUSED(vaccel_arg_array_set_buffer(&array, "12345", 5));
	REFUSED(vaccel_arg_array_set_buffer(&array, NULL, 4));
	WORKS(vaccel_arg_array_set_buffer(&array, "12", 2));
	CHECK(!memcmp(buffer, "12cd", 4));
	REFUSED(vaccel_arg_array_set_custom(&array, 42, "ab", 2, is_even));
	REFUSED(vaccel_arg_array_set_custom(&array, 42, NULL, 4, is_even));
	REFUSED(vaccel_arg_array_set_custom(&array, 41, "1234", 4, is_even));
	WORKS(vaccel_arg_array_set_custom(&array, 42, "1234", 4, is_even));
	CHECK(!memcmp(custom, "1234", 4));
	REFUSED(vaccel_arg_array_set_serialized(&array, VACCEL_ARG_CUSTOM, 5, "other size", 11, serialize));
	WORKS(vaccel_arg_array_set_serialized(&array, VACCEL_ARG_CUSTOM, 5, "tada", 5, serialize));
	CHECK(!strcmp(array.args[4].buf, "tada"));
	WORKS(vaccel_arg_array_set_raw(&array, NULL, 0));

	struct vaccel_arg *rest = NULL;
	vaccel_arg_array_set_position(&array, 2);
	WORKS(vaccel_arg_array_get_remaining(&array, &rest, &size));
	CHECK(rest == &array.args[2] && size == 4);
	vaccel_arg_array_set_position(&array, 99);
	RETURNS(6, vaccel_arg_array_position(&array));
	WORKS(vaccel_arg_array_get_remaining(&array, &rest, &size));
	CHECK(!rest && !size);
	REFUSED(vaccel_arg_array_get_remaining(NULL, &rest, &size));
	REFUSED(vaccel_arg_array_get_remaining(&array, NULL, &size));
	REFUSED(vaccel_arg_array_get_remaining(&array, &rest, NULL));
	vaccel_arg_array_clear(&array);
	RETURNS(0, vaccel_arg_array_count(&array));
	WORKS(vaccel_arg_array_add_string(&array, text));
	WORKS(vaccel_arg_array_release(&array));
	REFUSED(vaccel_arg_array_release(&array));
	REFUSED(vaccel_arg_array_release(NULL));
	vaccel_arg_array_clear(&array);
	vaccel_arg_array_clear(NULL);
}

static void ranges(void)
{
	int32_t numbers[4] = { 1, 2, 3, 4 };
	struct vaccel_arg_array *from = NULL, to, fixed;
	struct vaccel_arg args[2];
	WORKS(vaccel_arg_array_new(&from, 2));
	for (int i = 0; i < 4; i++)
		WORKS(vaccel_arg_array_add_int32(from, &numbers[i]));
	CHECK(from->count == 4 && from->capacity >= 4);
	WORKS(vaccel_arg_array_init(&to, 1));
	WORKS(vaccel_arg_array_add_range(&to, from, 1, 2, true));
	CHECK(to.count == 2 && to.args[0].buf != &numbers[1] && *(int32_t *)to.args[0].buf == 2 && to.args[0].owned);
	WORKS(vaccel_arg_array_add_all(&to, from, false));
	CHECK(to.count == 6 && to.args[2].buf == &numbers[0] && !to.args[2].owned);
	vaccel_arg_array_set_position(from, 3);
	WORKS(vaccel_arg_array_add_remaining(&to, from, true));
	CHECK(to.count == 7);
	vaccel_arg_array_set_position(from, 4);
	WORKS(vaccel_arg_array_add_remaining(&to, from, true));
	CHECK(to.count == 7);
	WORKS(vaccel_arg_array_add_range(&to, from, 1, 0, true));
	// An array to itself, which grows meanwhile.
	WORKS(vaccel_arg_array_add_all(&to, &to, true));
	CHECK(to.count == 14 && *(int32_t *)to.args[13].buf == 4);
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_add_range(&to, from, 4, 1, true));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_add_range(&to, from, 0, 5, true));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_add_range(&to, from, 2, (size_t)-1, true));
	REFUSED(vaccel_arg_array_add_range(NULL, from, 0, 1, true));
	REFUSED(vaccel_arg_array_add_range(&to, NULL, 0, 1, true));
	REFUSED(vaccel_arg_array_add_remaining(NULL, from, true));
	REFUSED(vaccel_arg_array_add_remaining(&to, NULL, true));
	REFUSED(vaccel_arg_array_add_all(NULL, from, true));
	REFUSED(vaccel_arg_array_add_all(&to, NULL, true));

	// A wrapped array is as long as it is.
	WORKS(vaccel_arg_array_wrap(&fixed, args, 0));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_add_int32(&fixed, &numbers[0]));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_add_string(&fixed, (char[]){ "a" }));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_add_raw(&fixed, numbers, 4));
	RETURNS(VACCEL_ERANGE, vaccel_arg_array_add_all(&fixed, from, true));
	WORKS(vaccel_arg_array_wrap(&fixed, from->args, 4));
	CHECK(!fixed.owned && fixed.capacity == 4);
	WORKS(vaccel_arg_array_release(&fixed));
	WORKS(vaccel_arg_array_wrap(&fixed, NULL, 0));
	REFUSED(vaccel_arg_array_wrap(&fixed, NULL, 1));
	REFUSED(vaccel_arg_array_wrap(NULL, args, 1));
	WORKS(vaccel_arg_array_release(&to));
	WORKS(vaccel_arg_array_delete(from));
	REFUSED(vaccel_arg_array_delete(NULL));
	REFUSED(vaccel_arg_array_new(NULL, 1));
	REFUSED(vaccel_arg_array_init(NULL, 1));
	RETURNS(VACCEL_ENOMEM, vaccel_arg_array_init(&to, (size_t)-1));
	RETURNS(0, vaccel_arg_array_count(NULL));
	RETURNS(0, vaccel_arg_array_position(NULL));
	RETURNS(0, vaccel_arg_array_remaining_count(NULL));
	CHECK(!vaccel_arg_array_raw(NULL));
	vaccel_arg_array_set_position(NULL, 1);
	vaccel_arg_array_reset_position(NULL);

	// Truth values are 0 or 1.
	char two = 2;
	struct vaccel_arg_array truth;
	WORKS(vaccel_arg_array_init(&truth, 1));
	REFUSED(vaccel_arg_array_add_bool(&truth, (bool *)&two));
	REFUSED(vaccel_arg_array_add_bool_array(&truth, (bool *)&two, 1));
	WORKS(vaccel_arg_array_release(&truth));
}

static void *to_bytes(void *data, uint32_t *size)
{
	*size = 4;
	return data ? memcpy(malloc(4), data, 4) : NULL;
}

static void *from_bytes(void *data, uint32_t size)
{
	return size == 4 ? data : NULL;
}

static void lists(void)
{
	int number = 7, result = 0, other = 9;
	struct vaccel_arg_list *list = vaccel_args_init(4);
	CHECK(list && list->size == 4 && list->curr_idx == 0);
	CHECK(!vaccel_args_init(0));
	WORKS(vaccel_add_serial_arg(list, &number, sizeof(number)));
	WORKS(vaccel_add_nonserial_arg(list, &number, 3, to_bytes));
	WORKS(vaccel_expect_serial_arg(list, &result, sizeof(result)));
	WORKS(vaccel_expect_nonserial_arg(list, 4));
	CHECK(list->curr_idx == 4 && list->list[1].custom_type_id == 3 && list->list[1].type == VACCEL_ARG_CUSTOM);
	REFUSED(vaccel_add_serial_arg(list, &number, 4));
	REFUSED(vaccel_add_nonserial_arg(list, &number, 3, to_bytes));
	REFUSED(vaccel_expect_serial_arg(list, &number, 4));
	REFUSED(vaccel_expect_nonserial_arg(list, 4));
	CHECK(vaccel_extract_serial_arg(list->list, 0) == &number);
	CHECK(*(int *)vaccel_extract_nonserial_arg(list->list, 1, from_bytes) == 7);
	WORKS(vaccel_write_serial_arg(list->list, 2, &other));
	CHECK(result == 9);
	WORKS(vaccel_write_nonserial_arg(list->list, 3, &other, to_bytes));
	CHECK(*(int *)list->list[3].buf == 9);
	CHECK(!vaccel_extract_serial_arg(NULL, 0) && !vaccel_extract_serial_arg(list->list, -1));
	CHECK(!vaccel_extract_nonserial_arg(NULL, 0, from_bytes));
	CHECK(!vaccel_extract_nonserial_arg(list->list, 0, NULL));
	REFUSED(vaccel_write_serial_arg(NULL, 0, &other));
	REFUSED(vaccel_write_serial_arg(list->list, -1, &other));
	REFUSED(vaccel_write_serial_arg(list->list, 0, NULL));
	REFUSED(vaccel_write_nonserial_arg(list->list, 0, &other, NULL));
	REFUSED(vaccel_write_nonserial_arg(NULL, 0, &other, to_bytes));
	WORKS(vaccel_delete_args(list));
	REFUSED(vaccel_delete_args(NULL));
	list = vaccel_args_init(2);
	REFUSED(vaccel_add_serial_arg(list, NULL, 4));
	REFUSED(vaccel_add_serial_arg(list, &number, 0));
	REFUSED(vaccel_add_serial_arg(NULL, &number, 4));
	REFUSED(vaccel_add_nonserial_arg(list, NULL, 3, to_bytes));
	REFUSED(vaccel_add_nonserial_arg(list, &number, 3, NULL));
	REFUSED(vaccel_expect_serial_arg(list, NULL, 4));
	REFUSED(vaccel_expect_nonserial_arg(list, 0));
	REFUSED(vaccel_expect_nonserial_arg(NULL, 4));
	// A result that is longer than its place is refused: what follows stays.
	char small[2] = "a";
	WORKS(vaccel_expect_serial_arg(list, small, 2));
	REFUSED(vaccel_write_nonserial_arg(list->list, 0, &other, to_bytes));
	WORKS(vaccel_delete_args(list));
}

int main(void)
{
	single();
	VACCEL_ARG_NUMERIC_TYPES(RUN)
	others();
	ranges();
	lists();
	return 0;
}
