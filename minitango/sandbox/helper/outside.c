/* The grader's side: what comes on stdin goes to the engine, what the engine says comes out, and the exit is the
 * student's program's. A signal that ends this process closes the connection, which ends the program. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "student.h"

enum how { EXITED, ENDED_BY_SIGNAL, LIMITED, NOT_STARTED, REFUSED, MISUSED };
enum { GIVE_NAME, GIVE_DATA };

static const struct asked *asked;
static bool heard_nothing = true, line_gone;

/* What is still to be written, of the frame that came last. */
static struct {
    unsigned char *at, *end;
    int fd;
} rest = {.fd = -1};

/* --- saying --- */

static void say_request(void) {
    char number[64];
    struct writer made = out_begin();
    put_u32(&made, (asked->time != NULL) + asked->given_count + asked->taken_count);
    if (asked->time) {
        snprintf(number, sizeof number, "time=%.50s", asked->time);
        put_word(&made, number);
    }
    for (unsigned i = 0; i < asked->given_count + asked->taken_count; i++) {
        bool given = i < asked->given_count;
        const char *value = given ? asked->given[i].name : asked->taken[i - asked->given_count];
        put_u32(&made, (uint32_t)(5 + strlen(value)));
        put_bytes(&made, given ? "give=" : "take=", 5);
        put_bytes(&made, value, strlen(value));
    }
    uint32_t count = 0;
    while (asked->words[count])
        count++;
    put_u32(&made, count);
    for (char **word = asked->words; *word; word++)
        put_word(&made, *word);
    if (!made.good)
        fail("the command is longer than 64 KiB");
    out_end('R', made);
}

/* The next frame of the files that go along; false where all have gone. */
static bool say_given(void) {
    static unsigned number, phase;
    if (number == asked->given_count)
        return false;
    struct writer made = out_begin();
    if (phase == GIVE_NAME) {
        put_bytes(&made, asked->given[number].name, strlen(asked->given[number].name));
        phase = GIVE_DATA;
    } else {
        ssize_t size = read(asked->given[number].fd, made.at, PIECE);
        if (size < 0)
            fail("--give %s: %s", asked->given[number].name, strerror(errno));
        made.at += size;
        if (size == 0) {
            close(asked->given[number++].fd);
            phase = GIVE_NAME;
        }
    }
    out_end('G', made);
    return true;
}

/* Pass on what came on stdin; false at its end. */
static bool say_input(void) {
    struct writer made = out_begin();
    ssize_t size = read(STDIN_FILENO, made.at, PIECE);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (size > 0)
        made.at += size;
    out_end(size > 0 ? 'I' : 'E', made);
    return size > 0;
}

/* --- what came back --- */

static int directory = -1, taking = -1;
static bool in_file, not_taken;

static void lost(const char *name) {
    if (!not_taken && !asked->quiet)
        dprintf(STDERR_FILENO, "minitango-student: %.200s could not be taken: %s\n", name, strerror(errno));
    not_taken = true;
}

/* Make a file below the directory, in place of what has its name; no link is followed. -1 with errno. */
static int create(char *path) {
    int at = dup(directory);
    for (char *slash; at >= 0 && (slash = strchr(path, '/')); path = slash + 1) {
        *slash = 0;
        int above = at;
        if (mkdirat(above, path, 0755) < 0 && errno != EEXIST)
            at = -1;
        else
            at = openat(above, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int error = errno;
        close(above);
        *slash = '/';
        errno = error;
    }
    if (at < 0)
        return -1;
    int fd = -1;
    if (unlinkat(at, path, 0) == 0 || errno == ENOENT)
        fd = openat(at, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    int error = errno;
    close(at);
    errno = error;
    return fd;
}

static bool is_clean(const char *path) {
    for (;;) {
        size_t length = strcspn(path, "/");
        if (length == 0 || (path[0] == '.' && (length == 1 || (length == 2 && path[1] == '.'))))
            return false;
        if (!path[length])
            return true;
        path += length + 1;
    }
}

/* `T`: a name, then data, and nothing at its end. False: malformed. */
static bool take_file(struct reader *payload) {
    static char name[PATH_MAX];
    size_t size = (size_t)(payload->end - payload->at);
    if (!in_file) {
        uint32_t length = get_u32(payload);
        unsigned char *bytes = get_bytes(payload, length);
        if (!bytes || length >= sizeof name || payload->at != payload->end || memchr(bytes, 0, length))
            return false;
        memcpy(name, bytes, length);
        name[length] = 0;
        if (!is_clean(name))
            return false;
        in_file = true;
        taking = directory < 0 ? -1 : create(name);
        if (taking < 0)
            lost(name);
        return true;
    }
    if (size == 0) {
        in_file = false;
        if (taking >= 0 && close(taking) < 0)
            lost(name);
        taking = -1;
    }
    while (size && taking >= 0) {
        ssize_t written = write(taking, payload->end - size, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            lost(name);
            close(taking);
            taking = -1;
            break;
        }
        size -= (size_t)written;
    }
    return true;
}

/* --- the end --- */

static void explain(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void explain(const char *format, ...) {
    if (asked->quiet)
        return;
    char text[512];
    va_list more;
    va_start(more, format);
    vsnprintf(text, sizeof text, format, more);
    va_end(more);
    dprintf(STDERR_FILENO, "minitango-student: %s\n", text);
}

/* `X`: be as the program was. */
static _Noreturn void end_as(struct reader *payload) {
    static char text[256];
    uint8_t how = get_u8(payload);
    uint32_t number = get_u32(payload);
    if (!payload->good)
        fail("the engine makes no sense");
    for (size_t i = 0; i < sizeof text - 1 && payload->at < payload->end; i++, payload->at++)
        text[i] = *payload->at < ' ' || *payload->at == 0x7F ? '?' : (char)*payload->at;
    /* The limit, then what it was. */
    char *most = strchr(text, ' ');
    if (most && how == LIMITED)
        *most++ = 0;
    most = most ? most : "it may";
    if (how == REFUSED || how == MISUSED) {
        explain("%s", *text ? text : "the engine does not run it");
        exit(FAILED);
    }
    if (how == LIMITED) {
        bool wall = strcmp(text, "wall") == 0;
        if (wall)
            explain("took longer than %s", most);
        else if (strcmp(text, "cpu") == 0)
            explain("used more CPU time than %s", most);
        else if (strcmp(text, "memory") == 0)
            explain("needed more memory than %s", most);
        else
            explain("printed more than %s", most);
        exit(wall ? TIMED_OUT : FAILED);
    }
    if (how == NOT_STARTED) {
        explain("%.200s: %s", asked->words[0], strerror((int)(number & 0xFFF)));
        exit(number == ENOENT ? NOT_FOUND : NOT_EXECUTED);
    }
    if (how == ENDED_BY_SIGNAL) {
        explain("ended by signal %u (%s)", number & 0x7F, strsignal((int)(number & 0x7F)));
        exit(SIGNALLED + (int)(number & 0x7F));
    }
    if (how != EXITED)
        fail("the engine makes no sense");
    exit(not_taken ? FAILED : (int)(number & 0xFF));
}

static _Noreturn void end_without_word(void) {
    if (heard_nothing)
        fail("too many calls at once");
    fail("the engine ended the call");
}

/* `N`: the name of a file that does not come, and why. */
static bool not_sent(struct reader *payload) {
    static char text[PATH_MAX + 300];
    uint32_t length = get_u32(payload);
    unsigned char *name = get_bytes(payload, length);
    if (!name)
        return false;
    int most = length < PATH_MAX ? (int)length : PATH_MAX;
    snprintf(text, sizeof text, "%.*s was not taken: %.*s", most, (char *)name, (int)(payload->end - payload->at),
             (char *)payload->at);
    for (char *at = text; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7F)
            *at = '?';
    explain("%s", text);
    not_taken = true;
    return true;
}

static void take_frame(char kind, struct reader *payload) {
    heard_nothing = false;
    switch (kind) {
    case 'O':
    case 'e':
        rest.at = payload->at;
        rest.end = payload->end;
        rest.fd = kind == 'O' ? STDOUT_FILENO : STDERR_FILENO;
        return;
    case 'T':
        if (take_file(payload))
            return;
        break;
    case 'N':
        if (not_sent(payload))
            return;
        break;
    case 'X':
        end_as(payload);
    default:
        break;
    }
    fail("the engine makes no sense");
}

static void write_rest(void) {
    size_t size = (size_t)(rest.end - rest.at);
    ssize_t written = write(rest.fd, rest.at, size < STEP ? size : STEP);
    if (written < 0 && errno != EAGAIN && errno != EINTR) {
        if (errno == EPIPE) /* and whoever started us ignores the signal */
            _exit(SIGNALLED + SIGPIPE);
        fail("%s: %s", rest.fd == STDOUT_FILENO ? "stdout" : "stderr", strerror(errno));
    }
    if (written > 0)
        rest.at += written;
}

static bool resting(void) { return rest.at < rest.end; }

_Noreturn void serve_grader(const struct asked *given) {
    bool given_all = false, input = true;
    asked = given;
    if (asked->into) {
        if (mkdir(asked->into, 0755) < 0 && errno != EEXIST)
            fail("--into %s: %s", asked->into, strerror(errno));
        directory = open(asked->into, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (directory < 0)
            fail("--into %s: %s", asked->into, strerror(errno));
    }
    say_request();
    for (;;) {
        if (!line_gone && !out_flush())
            line_gone = true; /* what was said before is still to be heard */
        if (!line_gone && !out_pending() && !given_all) {
            given_all = !say_given();
            continue;
        }
        bool saying = !line_gone && out_pending();
        struct pollfd fds[] = {
            {saying || !resting() ? line : -1, (short)((saying ? POLLOUT : 0) | (resting() ? 0 : POLLIN)), 0},
            {input && !saying && !line_gone ? STDIN_FILENO : -1, POLLIN, 0},
            {resting() ? rest.fd : -1, POLLOUT, 0},
        };
        if (poll(fds, 3, -1) < 0)
            continue;
        if (fds[2].revents)
            write_rest();
        if (fds[1].revents)
            input = say_input();
        if (fds[0].revents && !resting()) {
            char kind;
            struct reader payload;
            enum came came = in_read(&kind, &payload);
            if (came == FRAME)
                take_frame(kind, &payload);
            else if (came == END)
                end_without_word();
        } else if (fds[0].revents & (POLLHUP | POLLERR)) {
            line_gone = true; /* so that it is not looked at until what came is written */
        }
    }
}
