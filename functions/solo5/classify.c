/*
 * A function that says what is in a picture: the body of a request is a JPEG or PNG file, the answer the likeliest classes as
 * JSON, by the model and the labels that its image has. Its query may say how many: top=N. For solo5_arguments=none.
 */
#include "solo5.h"
#include "kernlet_accel.h"

MANIFEST();

#define MOST 100

static struct kernlet_class classes[MOST];
static struct kernlet_error error;
static char answer[MOST * 256], query[32];
static size_t len;

static void text(const char *s, size_t n) { memcpy(answer + len, s, n); len += n; }

/* A label in quotes, with the letters escaped that JSON does not allow there. */
static void quoted(const char *s, size_t n) {
    text("\"", 1);
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"' || s[i] == '\\') text("\\", 1);
        if ((uint8_t)s[i] >= ' ') text(s + i, 1);
    }
    text("\"", 1);
}

static void number(uint64_t value, unsigned digits) {
    char reversed[20];
    unsigned n = 0;
    for (; value || n < digits; value /= 10) reversed[n++] = (char)('0' + value % 10);
    while (n) text(&reversed[--n], 1);
}

/* Headers are two lengths, the name, the value. */
static int respond(unsigned status, const char *body, size_t size) {
    static const char json[] = "\x0c\0\x10\0Content-Typeapplication/json";
    return kernlet_respond(status, json, status == 200 ? sizeof json - 1 : 0, body, size) ? 1 : 0;
}

static int fail(unsigned status, const char *why) { return respond(status, why, strlen(why)); }

int app_main(const struct start *start) {
    /* Before the first request: once a function. */
    uint32_t model, labels;
    const struct kernlet_extension *kernlet = kernlet_find(boot);
    if (!kernlet || !(kernlet->features & KERNLET_REQUESTS)) { print("this is a function of Kernlet's\n"); return 1; }
    if (kernlet_find_resource("model", &model, NULL) || kernlet_find_resource("labels", &labels, NULL)) {
        print("the image has no resources named model and labels\n");
        return 1;
    }
    print("ready\n");

    /* Each request begins here. */
    uint64_t size;
    kernlet_request(KERNLET_BODY, 0, NULL, 0, &size);
    if (!size) return fail(400, "the body is empty; send a JPEG or PNG file as the body of a POST\n");
    if (size > start->heap_size) return fail(413, "the picture is larger than the memory; raise dev.kernlet.memory\n");
    uint8_t *picture = (uint8_t *)start->heap_start;
    kernlet_request(KERNLET_BODY, 0, picture, size, NULL);
    size_t count = 5;
    size_t query_len = kernlet_request(KERNLET_QUERY, 0, query, sizeof query - 1, NULL);
    if (query_len && !strncmp(query, "top=", 4)) {
        count = 0;
        for (const char *p = query + 4; *p >= '0' && *p <= '9' && count <= MOST; p++) count = count * 10 + (size_t)(*p - '0');
    }
    if (count < 1 || count > MOST) return fail(400, "top is a number from 1 to 100, such as ?top=3\n");
    if (kernlet_image_classify(model, labels, picture, size, classes, &count, &error))
        return respond(error.status == KERNLET_EINVAL ? 400 : 500, error.text, error.len);
    text("{\"predictions\":[", 16);
    for (size_t i = 0; i < count; i++) {
        text(i ? ",{\"class\":" : "{\"class\":", i ? 10 : 9);
        number(classes[i].index, 1);
        text(",\"label\":", 9);
        quoted(classes[i].label, classes[i].label_len);
        text(",\"probability\":", 15);
        uint64_t millionths = (uint64_t)(classes[i].probability * 1000000.0f + 0.5f);
        number(millionths / 1000000, 1);
        text(".", 1);
        number(millionths % 1000000, 6);
        text("}", 1);
    }
    text("]}", 2);
    return respond(200, answer, len);
}
