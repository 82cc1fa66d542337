/* Frames: one byte kind, four bytes length, payload; numbers are big-endian. Nothing here waits. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "supervise.h"

enum { FAREWELL_MS = 1000 }; /* for each piece of what is still to be said */

/* --- numbers --- */

static uint64_t get(struct reader *from, size_t size) {
    uint64_t number = 0;
    const unsigned char *bytes = get_bytes(from, size);
    for (size_t i = 0; bytes && i < size; i++)
        number = number << 8 | bytes[i];
    return number;
}

uint8_t get_u8(struct reader *from) { return (uint8_t)get(from, 1); }
uint16_t get_u16(struct reader *from) { return (uint16_t)get(from, 2); }
uint32_t get_u32(struct reader *from) { return (uint32_t)get(from, 4); }
uint64_t get_u64(struct reader *from) { return get(from, 8); }

unsigned char *get_bytes(struct reader *from, size_t size) {
    if (!from->good || (size_t)(from->end - from->at) < size) {
        from->good = false;
        return NULL;
    }
    from->at += size;
    return from->at - size;
}

static void put(struct writer *to, uint64_t number, unsigned size) {
    while (size--)
        *to->at++ = (unsigned char)(number >> 8 * size);
}

void put_u8(struct writer *to, uint8_t number) { put(to, number, 1); }
void put_u16(struct writer *to, uint16_t number) { put(to, number, 2); }
void put_u32(struct writer *to, uint32_t number) { put(to, number, 4); }
void put_u64(struct writer *to, uint64_t number) { put(to, number, 8); }

void put_bytes(struct writer *to, const void *bytes, size_t size) {
    memcpy(to->at, bytes, size);
    to->at += size;
}

/* --- out --- */

static unsigned char out[4 * (HEAD + PIECE)];
static size_t out_from, out_to;

size_t out_pending(void) { return out_to - out_from; }

bool out_ready(void) { return sizeof out - out_pending() >= HEAD + PIECE; }

struct writer out_begin(void) {
    if (sizeof out - out_to < HEAD + PIECE) {
        memmove(out, out + out_from, out_pending());
        out_to -= out_from;
        out_from = 0;
    }
    unsigned char *payload = out + out_to + HEAD;
    return (struct writer){payload, payload};
}

void out_end(char kind, struct writer made) {
    struct writer head = {out + out_to, out + out_to};
    put_u8(&head, (uint8_t)kind);
    put_u32(&head, (uint32_t)(made.at - made.start));
    out_to = (size_t)(made.at - out);
}

bool out_flush(void) {
    bool moved = false;
    while (out_pending()) {
        ssize_t written = write(STDOUT_FILENO, out + out_from, out_pending());
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno != EAGAIN)
            leave(DONE); /* nobody will ever read it: the engine is gone */
        if (written <= 0)
            break;
        out_from += (size_t)written;
        moved = true;
    }
    if (!out_pending())
        out_from = out_to = 0;
    return moved;
}

/* --- in --- */

/* Aligned to the largest page, so that its memory can be given back. */
static alignas(64 << 10) unsigned char in[LONGEST + (64 << 10)];
static size_t in_have;

bool in_read(char *kind, struct reader *payload) {
    size_t want = HEAD;
    if (in_have >= HEAD) {
        struct reader head = {in + 1, in + HEAD, true};
        want += get_u32(&head);
    }
    if (in_have < want) {
        ssize_t got = read(STDIN_FILENO, in + in_have, want - in_have);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            return false;
        if (got <= 0)
            leave(DONE);
        in_have += (size_t)got;
        if (in_have < want)
            return false;
    }
    if (want == HEAD) {
        struct reader head = {in + 1, in + HEAD, true};
        uint32_t length = get_u32(&head);
        if (length > (in[0] == 'R' ? LONGEST : PIECE))
            malformed((char)in[0], "is too long");
        if (length)
            return false;
    }
    *kind = (char)in[0];
    *payload = (struct reader){in + HEAD, in + in_have, true};
    in_have = 0;
    return true;
}

void in_forget(void) { madvise(in, sizeof in, MADV_DONTNEED); }

_Noreturn void malformed(char kind, const char *why) {
    kill(-1, SIGKILL);
    if (out_ready()) {
        struct writer made = out_begin();
        made.at += snprintf((char *)made.at, 256, "frame 0x%02x %s", (unsigned char)kind, why);
        out_end('!', made);
    }
    struct pollfd taken = {STDOUT_FILENO, POLLOUT, 0};
    do
        out_flush();
    while (out_pending() && poll(&taken, 1, FAREWELL_MS) > 0);
    leave(MALFORMED);
}
