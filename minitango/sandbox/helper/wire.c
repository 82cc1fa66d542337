/* Frames: one byte kind, four bytes length, payload; numbers are big-endian. Nothing here waits. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "student.h"

static unsigned char out[HEAD + PIECE], in[HEAD + PIECE];
static size_t out_from, out_to, in_have;

unsigned char *get_bytes(struct reader *from, size_t size) {
    if (!from->good || (size_t)(from->end - from->at) < size) {
        from->good = false;
        return NULL;
    }
    from->at += size;
    return from->at - size;
}

uint8_t get_u8(struct reader *from) {
    const unsigned char *byte = get_bytes(from, 1);
    return byte ? *byte : 0;
}

static uint32_t number_at(const unsigned char *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

uint32_t get_u32(struct reader *from) {
    const unsigned char *bytes = get_bytes(from, 4);
    return bytes ? number_at(bytes) : 0;
}

/* --- out --- */

bool out_pending(void) { return out_from < out_to; }

struct writer out_begin(void) { return (struct writer){out + HEAD, out + sizeof out, true}; }

void put_bytes(struct writer *to, const void *bytes, size_t size) {
    if ((size_t)(to->end - to->at) < size) {
        to->good = false;
        return;
    }
    memcpy(to->at, bytes, size);
    to->at += size;
}

void put_u32(struct writer *to, uint32_t number) {
    unsigned char bytes[] = {number >> 24 & 0xFF, number >> 16 & 0xFF, number >> 8 & 0xFF, number & 0xFF};
    put_bytes(to, bytes, sizeof bytes);
}

void put_word(struct writer *to, const char *word) {
    size_t length = strlen(word);
    put_u32(to, (uint32_t)length);
    put_bytes(to, word, length);
}

void out_end(char kind, struct writer made) {
    struct writer head = {out, out + HEAD, true};
    put_bytes(&head, &kind, 1);
    put_u32(&head, (uint32_t)(made.at - out - HEAD));
    out_from = 0;
    out_to = (size_t)(made.at - out);
}

bool out_flush(void) {
    while (out_pending()) {
        ssize_t sent = send(line, out + out_from, out_to - out_from, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN;
        out_from += (size_t)sent;
    }
    return true;
}

/* --- in --- */

enum came in_read(char *kind, struct reader *payload) {
    size_t want = in_have < HEAD ? HEAD : HEAD + number_at(in + 1);
    if (in_have < want) {
        ssize_t got = recv(line, in + in_have, want - in_have, MSG_DONTWAIT);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            return NOTHING;
        if (got <= 0)
            return END;
        in_have += (size_t)got;
        if (in_have < want)
            return NOTHING;
    }
    if (want == HEAD) {
        uint32_t length = number_at(in + 1);
        if (length > PIECE)
            return END;
        if (length)
            return NOTHING;
    }
    *kind = (char)in[0];
    *payload = (struct reader){in + HEAD, in + in_have, true};
    in_have = 0;
    return FRAME;
}
