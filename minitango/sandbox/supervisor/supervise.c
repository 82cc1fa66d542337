/* Pid 1 of a container: it takes files and a command over stdin, runs the command once as the job's user, kills and
 * reaps everything at its end, and says on stdout how it went. PROTOCOL.md is the specification.
 *
 * A single thread and one poll loop. Everything that comes from a job is data that is counted and passed on. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "supervise.h"

#ifndef PATIENCE
#define PATIENCE (60 * SECOND) /* for somebody to take what we say */
#endif
#define BURIAL (30 * SECOND)     /* for the kernel to end what was killed */
#define BEAT (SECOND / 4)        /* the loop looks at the clock this often in a run, whatever happens */
#define LATE (SECOND - BEAT)     /* being late by this much is a busy machine; by more, we stood still */
#define ALIVE (2 * SECOND)       /* of silence, then `b` */
#define TICK ((uint64_t)50000)   /* between two looks at the processes' accounts */
#define AGAIN ((uint64_t)10000)  /* between two kills */
#define LINGER ((uint64_t)25000) /* after the main process, for who goes on writing to be seen by the files' times */
#define PACE ((uint64_t)3000)    /* to let small pieces of output gather: a flood of short lines must be cheap */
#define SHORT ((uint64_t)5000)   /* between two looks at the control group's account */
enum { CLOCK_SLACK = 1000 /* microseconds by which it may be set back and nobody minds */ };
enum { SMALL = 4096, BATCH = 256 /* dead processes that are reaped at a time */ };
enum { LIMIT = 12, INSTRUCTION = 8 }; /* bytes of each in `R` */

enum how { ENDED, WALL_LIMIT, CPU_LIMIT, OUTPUT_LIMIT, KILLED };

static enum phase { READY, RUNNING, KILLING, DRAINING, OVER } phase;

static struct {
    pid_t pid;
    bool reaped, kill_wanted;
    int status;
    struct failure failure;
    enum how how;
    int output, report; /* descriptors; -1: closed */
    uint64_t output_bytes, output_limit;
    uint64_t started, ended; /* on the machine's clock */
    uint64_t cpu_limit, deadline;
    uint64_t next_check, read_again, last_read, blocked, killing, kill_again;
    uint32_t oom_kills; /* while it ran */
    bool metered, sampled;
} run = {.output = -1, .report = -1};

static uint64_t idle_limit, idle_since, said, moved, stood_still, round_began;
static int signals;
static bool more_dead; /* than were reaped at once */
static int64_t civil_ahead; /* by how much the clock of files was ahead of the machine's when the run started */

struct timespec main_ended;

/* --- time --- */

static uint64_t machine_time(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec / 1000;
}

/* How far the clock of files is ahead of the machine's, in microseconds; it changes where somebody sets that clock. */
static int64_t ahead(const struct timespec *civil) {
    return (int64_t)civil->tv_sec * (int64_t)SECOND + civil->tv_nsec / 1000 - (int64_t)machine_time();
}

/* The clock that limits are held by: it leaves out the time in which we stood still. */
static uint64_t now(void) { return machine_time() - stood_still; }

static uint64_t sum(uint64_t a, uint64_t b) { return a > NONE - b ? NONE : a + b; }

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* --- ends --- */

_Noreturn void leave(int status) {
    kill(-1, SIGKILL);
    _exit(status);
}

/* --- the run --- */

/* Reap what is dead: of many, the main process first. Whether any child is left. */
static bool reap(void) {
    int status;
    if (run.pid > 0 && !run.reaped && waitpid(run.pid, &status, WNOHANG) == run.pid) {
        run.reaped = true;
        run.status = status;
    }
    for (int i = 0; i < BATCH; i++) {
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0)
            return pid == 0;
        if (pid == run.pid) {
            run.reaped = true;
            run.status = status;
        }
    }
    return more_dead = true;
}

static void read_output(void) {
    struct writer made = out_begin();
    ssize_t size = read(run.output, made.at, PIECE);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        close(run.output);
        run.output = -1;
        return;
    }
    made.at += size;
    out_end('o', made);
    run.output_bytes += (uint64_t)size;
    uint64_t time = said = now();
    run.read_again = size < SMALL && time - run.last_read < 2 * PACE ? time + PACE : time;
    run.last_read = time;
}

/* Whether the CPU limit is passed; and when to look again. */
static bool cpu_is_over(void) {
    uint64_t start = now(), used = 0, wait = NONE;
    if (start < run.next_check)
        return false;
    if (run.sampled) {
        sample_memory();
        wait = TICK;
    }
    if (run.cpu_limit) {
        used = cpu_used();
        /* No sooner can it be passed, with every processor at work; but a look at all processes has its price. */
        uint64_t left = used < run.cpu_limit ? run.cpu_limit - used : 0, price = 10 * (now() - start);
        uint64_t soon = left / (uint64_t)get_nprocs();
        uint64_t least = run.metered ? SHORT : price > TICK ? price : TICK;
        wait = earlier(wait, soon > least && run.metered ? earlier(soon, BEAT) : least);
    }
    run.next_check = sum(start, wait);
    return run.cpu_limit && used >= run.cpu_limit;
}

/* The same in the middle of a round: it may have been then that we were stopped, and not while we waited. By no less
 * than this, for a job with many threads can hold up a round, but not so long. */
static uint64_t now_in_round(void) {
    if (now() > round_began + 3 * SECOND)
        stood_still += now() - round_began;
    return now();
}

/* Whether the wall limit is passed. What the job may have waited for us is not charged. */
static bool wall_is_over(void) {
    uint64_t time = now_in_round();
    if (!out_ready()) {
        if (!run.blocked)
            run.blocked = time;
        if (time - run.blocked > SECOND)
            return false;
    } else if (run.blocked) {
        if (time - run.blocked > SECOND)
            run.deadline = sum(run.deadline, time - run.blocked);
        run.blocked = 0;
    }
    return time >= run.deadline;
}

static void start_killing(enum how how) {
    if (run.sampled)
        sample_memory();
    run.how = how;
    run.oom_kills = oom_kills(); /* what is killed from now on, among what it left, is none of the run's */
    run.ended = machine_time();
    struct timespec civil;
    clock_gettime(CLOCK_REALTIME, &civil);
    if (how == ENDED && ahead(&civil) > civil_ahead - CLOCK_SLACK) /* else files may seem late that are not */
        main_ended = civil;
    run.killing = now();
    phase = KILLING;
}

static void watch_run(void) {
    enum how how = ENDED;
    bool cpu_over = cpu_is_over(), wall_over = wall_is_over();
    if (run.output_bytes > run.output_limit)
        how = OUTPUT_LIMIT;
    else if (run.reaped)
        how = ENDED;
    else if (run.kill_wanted)
        how = KILLED;
    else if (wall_over)
        how = WALL_LIMIT;
    else if (cpu_over)
        how = CPU_LIMIT;
    else
        return;
    start_killing(how);
}

static void bury(bool any_left) {
    if (any_left) {
        uint64_t time = now();
        if (time - run.killing > BURIAL)
            leave(STUCK); /* the end of pid 1 is the end of all */
        if (run.how == ENDED && time - run.killing < LINGER)
            return;
        if (time >= run.kill_again) {
            kill(-1, SIGKILL);
            run.kill_again = time + AGAIN; /* it looks at every process: not after each that is reaped */
        }
        return;
    }
    kill(-1, SIGKILL); /* what came into the container from outside is nobody's child here */
    if (run.report >= 0 && read(run.report, &run.failure, sizeof run.failure) != sizeof run.failure)
        run.failure = (struct failure){WAIT_STATUS, 0};
    if (run.report >= 0)
        close(run.report);
    phase = DRAINING;
}

static void say_end(void) {
    bool ended = run.failure.what == WAIT_STATUS;
    struct writer made = out_begin();
    put_u8(&made, (uint8_t)run.how);
    put_u8(&made, (uint8_t)run.failure.what);
    put_u32(&made, ended ? (uint32_t)run.status : run.failure.error);
    put_u64(&made, run.ended - run.started);
    put_u64(&made, cpu_used());
    put_u64(&made, peak_memory());
    put_u64(&made, largest_process());
    put_u64(&made, run.output_bytes);
    put_u32(&made, run.oom_kills);
    put_u8(&made, fork_refused());
    put_u8(&made, mounts_full());
    out_end('x', made);
}

/* Pass on what the dead left in the pipe: nothing can write there any more, so it is bounded. */
static void drain(void) {
    while (run.output >= 0 && run.output_bytes <= run.output_limit && out_ready()) {
        uint64_t before = run.output_bytes;
        read_output();
        if (run.output_bytes == before)
            break;
        out_flush();
    }
    if (!calls_drain() || !out_ready())
        return;
    if (run.how == ENDED && run.output_bytes > run.output_limit)
        run.how = OUTPUT_LIMIT;
    say_end();
    if (run.output >= 0)
        close(run.output);
    run.output = -1;
    idle_since = now();
    phase = OVER;
}

/* --- frames --- */

/* A number before a word, or of words. What came before it is a word, and gets its end from the first byte. */
static uint32_t get_length(struct reader *from) {
    uint32_t length = get_u32(from);
    if (from->good)
        from->at[-4] = 0;
    return length;
}

/* A list of words as an array that points into the frame. */
struct words {
    char **list; /* NULL: they are malformed, or there is no memory for it */
    size_t size;
    int error; /* ENOMEM, then */
};

static struct words get_words(struct reader *from, bool variables) {
    struct words words = {NULL, 0, 0};
    uint32_t count = get_length(from);
    if (!from->good || count > (size_t)(from->end - from->at) / 4)
        return words;
    words.size = ((size_t)count + 1) * sizeof(char *);
    char **list = mmap(NULL, words.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (list == MAP_FAILED) {
        words.error = errno;
        return words;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = get_length(from);
        list[i] = (char *)get_bytes(from, length);
        if (!list[i] || memchr(list[i], 0, length))
            return words;
        char *equals = variables ? memchr(list[i], '=', length) : NULL;
        if (variables && (!equals || equals == list[i]))
            return words;
    }
    words.list = list;
    return words;
}

/* The instructions of a filter, turned in their place into what the kernel reads. NULL: they are malformed. */
static unsigned char *get_filter(struct reader *from, unsigned *length) {
    *length = get_u16(from);
    struct reader numbers = *from;
    unsigned char *first = get_bytes(from, (size_t)*length * INSTRUCTION);
    for (unsigned i = 0; first && i < *length; i++) {
        struct sock_filter one = {.code = get_u16(&numbers)};
        one.jt = get_u8(&numbers);
        one.jf = get_u8(&numbers);
        one.k = get_u32(&numbers);
        _Static_assert(sizeof one == INSTRUCTION, "an instruction fits in its place");
        memcpy(first + (size_t)i * INSTRUCTION, &one, sizeof one);
    }
    return first;
}

/* `R`. False: it is malformed. */
static bool start(struct reader *payload) {
    struct command command = {.workdir = mount_fd(get_u16(payload))};
    uint64_t wall = get_u64(payload);
    run.cpu_limit = get_u64(payload);
    run.output_limit = get_u64(payload);
    command.limit_count = get_u16(payload);
    command.limits = get_bytes(payload, (size_t)command.limit_count * LIMIT);
    command.filter = get_filter(payload, &command.filter_length);
    if (!payload->good || command.workdir < 0)
        return false;
    struct words argv = get_words(payload, false), envp = {NULL, 0, argv.error};
    if (argv.list && argv.list[0])
        envp = get_words(payload, true);
    if (!envp.error && (!envp.list || payload->at != payload->end))
        return false;
    *payload->end = 0; /* the last word's; there is room */
    command.argv = argv.list;
    command.envp = envp.list;

    account_start();
    calls_start();
    run.metered = cpu_is_metered();
    run.sampled = memory_must_be_sampled();
    run.started = machine_time();
    struct timespec civil;
    clock_gettime(CLOCK_REALTIME, &civil);
    civil_ahead = ahead(&civil);
    run.deadline = sum(now(), wall);
    said = run.last_read = now();
    phase = RUNNING;
    if (run.kill_wanted) {
        run.failure.what = NEVER_STARTED;
    } else if (envp.error || (run.pid = start_job(&command, &run.output, &run.report)) < 0) {
        run.failure = (struct failure){FORK_ERROR, (uint32_t)(envp.error ? envp.error : errno)};
        run.pid = 0;
    }
    if (run.failure.what != WAIT_STATUS)
        start_killing(run.kill_wanted ? KILLED : ENDED);
    if (argv.list)
        munmap(argv.list, argv.size);
    if (envp.list)
        munmap(envp.list, envp.size);
    in_forget();
    return true;
}

static void take_frame(char kind, struct reader *payload) {
    bool good = true;
    switch (kind) {
    case 'K':
    case 'Q':
        if (payload->at != payload->end)
            break;
        if (kind == 'Q')
            leave(DONE);
        run.kill_wanted = true;
        return;
    case 'P':
    case 'B':
    case 'Y':
    case 'R':
    case 'D':
        if (phase != READY || putting() != (kind == 'D'))
            malformed(kind, "is out of order");
        if (kind == 'P')
            good = put_file(payload);
        else if (kind == 'D')
            good = put_data(payload);
        else if (kind == 'B')
            good = put_tree(payload);
        else if (kind == 'R')
            good = start(payload);
        else if ((good = payload->at == payload->end))
            say_problem();
        if (!good)
            break;
        return;
    case 'C':
    case 'F':
    case 'X':
    case 'W':
        if (!calls_frame(kind, payload, phase == RUNNING || phase == KILLING))
            break;
        return;
    case 'L':
    case 'S':
    case 'G':
        if (phase != OVER)
            malformed(kind, "is out of order");
        if (!ask(kind, payload))
            break;
        return;
    default:
        malformed(kind, "is of no known kind");
    }
    malformed(kind, "cannot be understood");
}

/* --- the loop --- */

static void take_signals(void) {
    struct signalfd_siginfo got;
    while (read(signals, &got, sizeof got) == sizeof got)
        /* The engine's, from outside of this pid namespace. A job that is root may send one, too. */
        if (got.ssi_signo == SIGTERM && got.ssi_code == SI_USER && got.ssi_pid == 0)
            leave(TERMINATED);
}

/* When something is to be done, though nothing comes; NONE: never. */
static uint64_t next_wake(uint64_t time, bool pacing) {
    if (more_dead || (answering() && out_ready()))
        return time;
    if (phase == READY || phase == OVER)
        return idle_limit || out_pending() ? time + SECOND : NONE;
    uint64_t wake = time + BEAT;
    if (phase == RUNNING) {
        wake = earlier(wake, earlier(run.deadline > time ? run.deadline : NONE, run.next_check));
        if (pacing)
            wake = earlier(wake, run.read_again);
    }
    if (phase == KILLING)
        wake = earlier(wake, time + AGAIN);
    return wake;
}

static void wait_and_take(uint64_t *wake) {
    uint64_t time = now_in_round();
    bool pacing = time < run.read_again;
    bool hear = phase != READY && phase != OVER ? true : out_ready() && !answering();
    bool listen = phase == RUNNING && run.output >= 0 && out_ready() && !pacing;
    struct pollfd fds[4 + CALLS_FDS] = {
        {STDIN_FILENO, hear ? POLLIN : 0, 0},
        {STDOUT_FILENO, out_pending() ? POLLOUT : 0, 0},
        {signals, POLLIN, 0},
        {listen ? run.output : -1, POLLIN, 0},
    };
    *wake = next_wake(time, pacing);
    unsigned calls = phase == RUNNING ? calls_await(fds + 4, time, wake) : 0;
    uint64_t rest = *wake > time ? *wake - time : 0;
    int ready = poll(fds, 4 + calls, *wake == NONE ? -1 : (int)((rest + 999) / 1000));
    time = now();
    if (ready <= 0) {
        if (idle_limit && (phase == READY || phase == OVER) && time <= *wake + LATE && time - idle_since >= idle_limit)
            leave(IDLED);
        return;
    }
    if (fds[1].revents & (POLLERR | POLLNVAL))
        leave(DONE); /* nobody will ever read it: the engine is gone */
    if (fds[2].revents)
        take_signals();
    if (fds[3].revents)
        read_output();
    if (calls)
        calls_take(fds + 4);
    if (fds[0].revents & (POLLERR | POLLNVAL) || (!hear && fds[0].revents & POLLHUP))
        leave(DONE);
    if (hear && fds[0].revents) {
        char kind;
        struct reader payload;
        idle_since = time;
        if (in_read(&kind, &payload))
            take_frame(kind, &payload);
    }
}

static _Noreturn void serve(void) {
    for (uint64_t wake = NONE;;) {
        uint64_t time = now();
        if (wake != NONE && time > wake + LATE)
            stood_still += time - wake;
        round_began = now();
        more_dead = false;
        bool any_left = reap();
        if (phase == RUNNING)
            watch_run();
        if (phase == KILLING)
            bury(any_left);
        if (phase == DRAINING)
            drain();
        if (answering() && out_ready())
            answer_more();
        calls_say();
        if (phase == RUNNING && !out_pending() && now() - said >= ALIVE) {
            out_end('b', out_begin());
            said = now();
        }
        if (out_flush())
            moved = idle_since = now();
        else if (!out_pending())
            moved = now();
        else if (now() - moved > PATIENCE)
            leave(STUCK);
        wait_and_take(&wake);
    }
}

/* --- the start --- */

static _Noreturn void refuse(const char *what, const char *why) {
    dprintf(STDERR_FILENO, "supervise: %s: %s\n", what, why);
    _exit(UNFIT);
}

static uint32_t get_argument(const char *text) {
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (errno || *text < '0' || *text > '9' || *end || number >= UINT32_MAX)
        refuse(text, "not a number that can be used here");
    return (uint32_t)number;
}

static void prepare_signals(void) {
    sigset_t taken;
    signal(SIGPIPE, SIG_IGN); /* errors are answers */
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* where it is ignored, nobody's end is told */
    sigemptyset(&taken);
    sigaddset(&taken, SIGCHLD);
    sigaddset(&taken, SIGTERM);
    sigprocmask(SIG_BLOCK, &taken, NULL);
    signals = signalfd(-1, &taken, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signals < 0)
        refuse("signalfd", strerror(errno));
}

int main(int argc, char **argv) {
    if (getpid() != 1)
        refuse("not pid 1", "it ends a job by killing every process that it can see");
    if (argc < 4)
        refuse("usage", "supervise UID GID IDLE [root] MOUNT...");
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
            _exit(UNFIT);
    own_uid = geteuid();
    own_gid = getegid();
    job_uid = get_argument(argv[1]);
    job_gid = get_argument(argv[2]);
    idle_limit = get_argument(argv[3]) * SECOND;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prepare_signals();
    umask(022);
    /* Where this fails, it fails for the job as well, which says so. */
    if (job_uid != own_uid)
        setgroups(0, NULL);
    job_is_root = argc > 4 && strcmp(argv[4], "root") == 0;
    if (job_is_root && (own_uid != 0 || job_uid != 0))
        refuse("root", "that is who the job is to be, and who this is");
    for (int i = job_is_root ? 5 : 4; i < argc; i++)
        if (!add_mount(argv[i]))
            refuse(argv[i], strerror(errno));
    fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) | O_NONBLOCK);
    say_hello();
    moved = idle_since = now();
    serve();
}
