/*
 * A function that shows a request as it came: the answer's body is the request's, and so is what a header "X-Line" of the answer
 * says, "METHOD PATH?QUERY". With the query "print" it prints the body in place of handing it over; with "twice" it hands over
 * another answer before; with "silent" it says nothing at all. For solo5_arguments=none.
 */
#include "solo5.h"
#include "kernlet_accel.h"

MANIFEST();

static char headers[1024], query[256];

int app_main(const struct start *start) {
    uint8_t *body = (uint8_t *)start->heap_start;
    uint64_t size, done = 0;
    static unsigned starts;
    print("started %u times\n", ++starts);
    kernlet_request(KERNLET_BODY, 0, NULL, 0, &size);
    ASSERT(size <= start->heap_size);
    /* Piece by piece, of which the last is shorter. */
    while (done < size) done += kernlet_request(KERNLET_BODY, done, body + done, 100000, NULL);
    ASSERT(kernlet_request(KERNLET_BODY, size, body, 1, NULL) == 0 && kernlet_request(KERNLET_BODY, ~0ul, body, 1, NULL) == 0);
    size_t query_len = kernlet_request(KERNLET_QUERY, 0, query, sizeof query - 1, NULL);
    if (!strcmp(query, "silent")) return 0;
    if (!strcmp(query, "print")) { console((const char *)body, size); return 0; }
    if (!strcmp(query, "twice")) ASSERT(!kernlet_respond(500, NULL, 0, "no", 2));
    if (!strcmp(query, "status")) kernlet_respond(199, NULL, 0, NULL, 0);
    if (!strcmp(query, "large")) kernlet_respond(200, NULL, 0, body, start->heap_size);
    memcpy(headers, "\6\0\0\0X-Line", 10);
    size_t at = 10;
    at += kernlet_request(KERNLET_METHOD, 0, headers + at, 16, NULL);
    headers[at++] = ' ';
    at += kernlet_request(KERNLET_PATH, 0, headers + at, 256, NULL);
    headers[at++] = '?';
    memcpy(headers + at, query, query_len);
    at += query_len;
    headers[2] = (char)(at - 10);
    headers[3] = (char)((at - 10) >> 8);
    print("answered by the call\n");
    ASSERT(!kernlet_respond(size ? 200 : 204, headers, at, body, size));
    return 0;
}
