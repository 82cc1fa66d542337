/* minitango-student: runs a program where the submission is, in a box of its own, for a grader in another. The engine
 * is between the two: each has a connection to it, by a socket that is in every box with a helper.
 *
 *   student.c  the arguments, the connection
 *   wire.c     frames in and out
 *   outside.c  in the grader's box: standard streams to the engine and from it
 *   inside.c   in the student's: the engine's to a program and from it
 *
 * PROTOCOL.md beside it is the specification. Nothing here holds more than a frame each way. */
#ifndef STUDENT_H
#define STUDENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HEAD = 5,          /* bytes before a frame's payload */
    PIECE = 64 << 10,  /* bytes of payload at most */
    STEP = 4096,       /* bytes that a pipe takes at once, if it takes any: PIPE_BUF */
    GIVEN = 256,       /* files that go along */
    TAKEN = 256,       /* patterns of files that come back */
};

/* Exit statuses that are ours. */
enum { TIMED_OUT = 124, FAILED = 125, NOT_EXECUTED = 126, NOT_FOUND = 127, SIGNALLED = 128 };

/* Say it on stderr, and leave. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, where the grader asked for what cannot be: the engine is told, and no student pays for it. */
_Noreturn void misused(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- student.c --- */

/* What was asked for on the command line. */
struct asked {
    const char *time; /* NULL: no limit of its own */
    const char *into; /* where what is taken goes */
    bool quiet;
    struct {
        const char *name;
        int fd;
    } given[GIVEN];
    unsigned given_count;
    const char *taken[TAKEN];
    unsigned taken_count;
    char **words; /* the command, up to NULL */
};

extern int line; /* the connection to the engine; nothing waits on it but poll */

/* --- wire.c --- */

/* The payload of a frame, read from its start. What is not there clears `good`. */
struct reader {
    unsigned char *at, *end;
    bool good;
};
uint8_t get_u8(struct reader *from);
uint32_t get_u32(struct reader *from);
unsigned char *get_bytes(struct reader *from, size_t size); /* NULL where they are not there */

/* The frame that goes out next: one at a time. */
struct writer {
    unsigned char *at, *end;
    bool good; /* all has fitted */
};
bool out_pending(void);
struct writer out_begin(void); /* only where nothing is pending */
void put_u32(struct writer *to, uint32_t number);
void put_bytes(struct writer *to, const void *bytes, size_t size);
void put_word(struct writer *to, const char *word); /* its length before it */
void out_end(char kind, struct writer made);
bool out_flush(void); /* false: nobody will take it */

/* The frame that came last. */
enum came { NOTHING, FRAME, END };
enum came in_read(char *kind, struct reader *payload); /* END: of the connection, or no frame at all */

/* --- the two sides --- */

_Noreturn void serve_grader(const struct asked *asked);
_Noreturn void serve_student(void);

#endif
