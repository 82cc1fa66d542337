/* The arguments, and the connection. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "student.h"

#define SOCKET "/minitango/socket"
enum { PATIENCE = 10, AGAIN_MS = 10, HELD = 64 << 10 };

int line = -1;

static const char usage[] =
    "Usage: minitango-student [OPTIONS] [--] CMD [ARGS...]\n"
    "\n"
    "Run CMD where the submission is, in a box of its own, and be like it: stdin, stdout, stderr, exit status.\n"
    "The submission cannot reach anything that is here. Only in a guarded step.\n"
    "\n"
    "  --time SECONDS       end it after so long (never later than the step's own limit)\n"
    "  --give FILE[:NAME]   put this file beside the submission first, for this run\n"
    "  --take PATTERN       bring back the files that match, with --into\n"
    "  --into DIR           where they go: a directory for nothing else, as they replace what has their names\n"
    "  --quiet              do not say why it ended, where it was not by itself\n"
    "  --help               show this\n"
    "\n"
    "Exit status: that of CMD; 128 + N where signal N ended it; 124 where it took too long; 125 where another limit\n"
    "ended it, or it could not be run for another reason; 126 where CMD cannot be executed; 127 where there is none.\n";

static void say(const char *format, va_list more) {
    char text[512] = "minitango-student: ";
    size_t length = strlen(text);
    vsnprintf(text + length, sizeof text - length - 1, format, more);
    length = strlen(text);
    text[length] = '\n';
    if (write(STDERR_FILENO, text, length + 1) < 0)
        return; /* the exit status is all there is */
}

_Noreturn void fail(const char *format, ...) {
    va_list more;
    va_start(more, format);
    say(format, more);
    va_end(more);
    exit(FAILED);
}

/* Connect. Where many wait to be taken, so does this one, for some seconds. False with errno. */
static bool connected(void) {
    struct sockaddr_un place = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    struct timespec pause = {0, AGAIN_MS * 1000000L};
    int held = HELD;
    line = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (line < 0)
        return false;
    /* At the end of a box what it holds is still read, but not without a bound. */
    setsockopt(line, SOL_SOCKET, SO_SNDBUF, &held, sizeof held);
    for (int tries = PATIENCE * 1000 / AGAIN_MS; connect(line, (struct sockaddr *)&place, sizeof place) < 0; tries--) {
        if ((errno != EAGAIN && errno != EINTR) || tries == 0)
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

static void reach_engine(void) {
    if (!connected())
        fail("%s: %s (only a box of a guarded step has it)", SOCKET, strerror(errno));
}

_Noreturn void misused(const char *format, ...) {
    char text[512];
    va_list more;
    va_start(more, format);
    say(format, more);
    va_end(more);
    va_start(more, format);
    vsnprintf(text, sizeof text, format, more);
    va_end(more);
    if (connected()) {
        char kind;
        struct reader payload;
        struct writer made = out_begin();
        put_bytes(&made, text, strlen(text));
        out_end('B', made);
        out_flush(); /* a new connection has room for it */
        /* Not before it was heard: the grader may end at once. */
        for (struct pollfd fd = {line, POLLIN, 0}; poll(&fd, 1, PATIENCE * 1000) > 0;)
            if (in_read(&kind, &payload) != NOTHING)
                break;
    }
    exit(FAILED);
}

static void give(struct asked *asked, char *argument) {
    char *colon = strrchr(argument, ':'), *slash = strrchr(argument, '/');
    const char *name = slash ? slash + 1 : argument;
    struct stat about;
    if (colon && colon > argument && colon[1]) {
        *colon = 0;
        name = colon + 1;
    }
    if (asked->given_count == GIVEN)
        misused("--give: more than %d files", GIVEN);
    int fd = open(argument, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &about) < 0)
        fail("--give %s: %s", argument, strerror(errno));
    if (!S_ISREG(about.st_mode))
        fail("--give %s: not a file", argument);
    asked->given[asked->given_count].name = name;
    asked->given[asked->given_count++].fd = fd;
}

static void check_time(const char *text) {
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end || !(seconds > 0) || seconds > 1e9 || text[strspn(text, "0123456789.")])
        misused("--time %s: not a number of seconds above 0", text);
}

/* The value of an option, if this is that option: `--name value` or `--name=value`. */
static char *value_of(const char *name, char ***at) {
    size_t length = strlen(name);
    char *word = **at;
    if (strncmp(word, name, length) != 0 || (word[length] && word[length] != '='))
        return NULL;
    char *value = word[length] ? word + length + 1 : *++*at;
    if (!value || !*value)
        misused("%s: its value is missing (try: minitango-student --help)", name);
    return value;
}

static void read_arguments(struct asked *asked, char **at) {
    for (char *value; *at && (*at)[0] == '-' && (*at)[1]; at++) {
        if (strcmp(*at, "--") == 0) {
            at++;
            break;
        }
        if (strcmp(*at, "--help") == 0) {
            exit(fputs(usage, stdout) < 0 || fflush(stdout) < 0 ? FAILED : 0);
        } else if (strcmp(*at, "--quiet") == 0) {
            asked->quiet = true;
        } else if ((value = value_of("--time", &at))) {
            check_time(asked->time = value);
        } else if ((value = value_of("--give", &at))) {
            give(asked, value);
        } else if ((value = value_of("--into", &at))) {
            asked->into = value;
        } else if ((value = value_of("--take", &at))) {
            if (asked->taken_count == TAKEN)
                misused("--take: more than %d patterns", TAKEN);
            asked->taken[asked->taken_count++] = value;
        } else {
            misused("%s: no such option (try: minitango-student --help)", *at);
        }
    }
    if (asked->taken_count && !asked->into)
        misused("--take needs --into DIR: where the files go");
    if (!*at || !**at)
        misused("which command? (try: minitango-student --help)");
    asked->words = at;
}

int main(int argc, char **argv) {
    static struct asked asked;
    /* What is not open must not become the connection, or a file. */
    while (fcntl(STDERR_FILENO, F_GETFD) < 0 || fcntl(STDIN_FILENO, F_GETFD) < 0 || fcntl(STDOUT_FILENO, F_GETFD) < 0)
        if (open("/dev/null", O_RDWR) < 0)
            return FAILED;
    if (argc == 2 && strcmp(argv[1], "--inside") == 0) {
        reach_engine();
        serve_student();
    }
    read_arguments(&asked, argv + (argc > 0));
    reach_engine();
    serve_grader(&asked);
}
