/* What the parts of the supervisor share. PROTOCOL.md beside it says what the whole does.
 *
 *   supervise.c  the arguments, the one loop, and the run from its start to its end
 *   wire.c       frames in and out
 *   job.c        the child, until it is the command
 *   files.c      the mounts: what is put into them, what is read from them
 *   calls.c      the connections that programs of the job make to us
 *   account.c    what the control group and /proc say
 */
#ifndef SUPERVISE_H
#define SUPERVISE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum {
    VERSION = 2,
    HEAD = 5,            /* bytes before a frame's payload */
    PIECE = 64 << 10,    /* bytes of payload at most, but for `R` */
    LONGEST = 8 << 20,   /* of `R` */
    LONGEST_PATH = 4096, /* bytes of a path */
    MOUNTS = 64,
    CHANNELS = 16,
    CALLS_FDS = 1 + CHANNELS,
};

#define SECOND ((uint64_t)1000000) /* times are in microseconds */
#define NONE UINT64_MAX            /* no limit; no time */

/* Where things are in a record of getdents64 (struct linux_dirent64). */
enum { DIRENT_LENGTH = 16, DIRENT_NAME = 19 };

/* Exit statuses. */
enum { DONE = 0, UNFIT = 2, MALFORMED = 3, IDLED = 4, STUCK = 5, TERMINATED = 143 };

/* Kill everything and exit. */
_Noreturn void leave(int status);


/* --- wire.c --- */

/* The payload of a frame, read from its start. What is not there reads as 0 and clears `good`. */
struct reader {
    unsigned char *at, *end;
    bool good;
};
uint16_t get_u16(struct reader *from);
uint32_t get_u32(struct reader *from);
uint64_t get_u64(struct reader *from);
uint8_t get_u8(struct reader *from);
unsigned char *get_bytes(struct reader *from, size_t size); /* NULL where they are not there */

/* The payload of a frame being made. The caller sees to it that PIECE is not passed. */
struct writer {
    unsigned char *start, *at;
};
void put_u8(struct writer *to, uint8_t number);
void put_u16(struct writer *to, uint16_t number);
void put_u32(struct writer *to, uint32_t number);
void put_u64(struct writer *to, uint64_t number);
void put_bytes(struct writer *to, const void *bytes, size_t size);

bool out_ready(void);                  /* is there room for a frame of any length? */
struct writer out_begin(void);         /* only where out_ready() */
void out_end(char kind, struct writer made);
size_t out_pending(void);
bool out_flush(void);                  /* write what goes without waiting; whether anything went */

/* Read from stdin once. Whether a frame is whole now: its kind and payload, valid until the next call. */
bool in_read(char *kind, struct reader *payload);
void in_forget(void); /* give the memory of a long frame back */

/* Answer `!`, and leave. */
_Noreturn void malformed(char kind, const char *why);

/* When the main process had ended by itself, on the clock of files; 0: it did not, or that clock was set back. */
extern struct timespec main_ended;

/* --- job.c --- */

/* One `R`. The words lie in the frame itself. */
struct command {
    int workdir;
    unsigned char *limits; /* as they came: u32 resource, u64 value */
    unsigned limit_count;
    unsigned char *filter; /* instructions of a seccomp filter, as the kernel reads them */
    unsigned filter_length;
    char **argv, **envp;
};

/* What kept the command from starting, as in `x`. */
enum what { WAIT_STATUS, EXEC_ERROR, FORK_ERROR, BECOME_ERROR, NEVER_STARTED };
struct failure {
    uint32_t what, error;
};

/* Start it. The pid, or -1 with errno; `output` and `report` are what is to be read: its output, and a `struct
 * failure` where the command itself could not be executed. */
pid_t start_job(const struct command *command, int *output, int *report);

/* --- files.c --- */

extern bool job_is_root; /* with capabilities, because that was asked for */
extern uid_t own_uid, job_uid;
extern gid_t own_gid, job_gid;

bool add_mount(const char *argument); /* false with errno */
int mount_fd(unsigned number);        /* -1: there is none of this number */
bool mounts_full(void);

/* `P`, `D`, `B`, `Y`: they never fail but by `y`. False: the frame is malformed. */
bool put_file(struct reader *payload);
bool put_data(struct reader *payload);
bool put_tree(struct reader *payload);
bool putting(void); /* does a file lack some of its bytes? */
void say_problem(void);

/* `L`, `S`, `G`. */
bool ask(char kind, struct reader *payload);
bool answering(void);
void answer_more(void); /* only where answering() and out_ready() */

/* --- calls.c --- */

bool open_socket(int directory); /* false with errno */
void calls_start(void);          /* the run starts: now it listens, if there is a socket */
/* What to wait for, and until when at most. How many these are. */
unsigned calls_await(struct pollfd fds[CALLS_FDS], uint64_t time, uint64_t *wake);
void calls_take(const struct pollfd fds[CALLS_FDS]);
void calls_say(void); /* what was taken, as far as there is room to say it */
bool calls_drain(void); /* send on what the dead left, and close all; false: there is no room for it yet */
bool calls_frame(char kind, struct reader *payload, bool running); /* `C`, `F`, `X`, `W`; false: it is malformed */

/* --- account.c --- */

void say_hello(void);
void account_start(void);  /* the run starts: what follows is less what was before */
bool cpu_is_metered(void); /* by a control group: cheap and exact */
uint64_t cpu_used(void);
bool memory_must_be_sampled(void);
void sample_memory(void);
uint64_t peak_memory(void); /* 0: not known */
uint64_t largest_process(void);
uint32_t oom_kills(void);
bool fork_refused(void);

#endif
