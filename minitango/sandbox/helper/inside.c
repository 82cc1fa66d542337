/* The student's side: the box's own command. It learns from the engine what to run, and is as that was. Whatever else
 * is in this box may do to it what it likes: it can forge no more than its own output and end. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "student.h"

enum { OUTPUT, ERRORS, STREAMS };

static const char kinds[STREAMS] = {'O', 'e'};

static struct {
    pid_t pid;
    bool dead;
    int status;
    int input; /* -1: closed */
    int output[STREAMS];
    size_t left[STREAMS]; /* bytes that the dead left in its pipes */
    bool input_ends;
} child = {.input = -1, .output = {-1, -1}};

/* What is still to be written to its stdin. */
static unsigned char *rest_at, *rest_end;

static void forget(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void on_death(int number) { (void)number; }

/* --- the command --- */

static char **get_words(struct reader *from) {
    static char text[PIECE];
    static char *list[PIECE / 4 + 1];
    char *at = text;
    uint32_t count = get_u32(from);
    if (count == 0 || count > PIECE / 4)
        return NULL;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = get_u32(from);
        const unsigned char *word = get_bytes(from, length);
        if (!word || memchr(word, 0, length))
            return NULL;
        memcpy(at, word, length); /* the length took four bytes, its end takes one */
        at[length] = 0;
        list[i] = at;
        at += length + 1;
    }
    list[count] = NULL;
    return from->at == from->end ? list : NULL;
}

static char **wait_for_command(void) {
    for (;;) {
        struct pollfd fd = {line, POLLIN, 0};
        char kind;
        struct reader payload;
        if (poll(&fd, 1, -1) < 0)
            continue;
        enum came came = in_read(&kind, &payload);
        if (came == NOTHING)
            continue;
        char **words = NULL;
        if (came == FRAME && kind == 'R' && get_u32(&payload) == 0)
            words = get_words(&payload);
        if (!words)
            fail("the engine asks for nothing that can be run");
        return words;
    }
}

static void send_all(void) {
    while (out_flush() && out_pending()) {
        struct pollfd fd = {line, POLLOUT, 0};
        poll(&fd, 1, -1);
    }
}

static _Noreturn void end_unexecuted(int error) {
    struct writer made = out_begin();
    put_u32(&made, (uint32_t)error);
    out_end('F', made);
    send_all();
    _exit(NOT_FOUND);
}

static void start(char **words) {
    int in[2], out[2], err[2], said[2], error = 0;
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0 || pipe2(said, O_CLOEXEC) < 0)
        end_unexecuted(errno);
    child.pid = fork();
    if (child.pid < 0)
        end_unexecuted(errno);
    if (child.pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        if (dup2(in[0], STDIN_FILENO) >= 0 && dup2(out[1], STDOUT_FILENO) >= 0 && dup2(err[1], STDERR_FILENO) >= 0)
            execvp(words[0], words);
        error = errno;
        _exit(write(said[1], &error, sizeof error) < 0 ? NOT_EXECUTED : NOT_FOUND);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    close(said[1]);
    ssize_t got;
    while ((got = read(said[0], &error, sizeof error)) < 0 && errno == EINTR)
        ;
    if (got == sizeof error)
        end_unexecuted(error);
    close(said[0]);
    child.input = in[1];
    child.output[OUTPUT] = out[0];
    child.output[ERRORS] = err[0];
    fcntl(child.input, F_SETFL, O_NONBLOCK);
    fcntl(child.output[OUTPUT], F_SETFL, O_NONBLOCK);
    fcntl(child.output[ERRORS], F_SETFL, O_NONBLOCK);
}

/* --- while it runs --- */

static _Noreturn void end_as_child(void) {
    if (WIFSIGNALED(child.status)) {
        int number = WTERMSIG(child.status);
        struct rlimit none = {1, 1}; /* with 0 a collector of core files on the host is started all the same */
        sigset_t one;
        setrlimit(RLIMIT_CORE, &none);
        signal(number, SIG_DFL);
        sigemptyset(&one);
        sigaddset(&one, number);
        kill(getpid(), number);
        sigprocmask(SIG_UNBLOCK, &one, NULL);
        _exit(SIGNALLED + number);
    }
    _exit(WEXITSTATUS(child.status));
}

/* See whether it is dead. What it left in its pipes is still to go; not what its children write there from now on. */
static void reap(void) {
    if (child.dead || waitpid(child.pid, &child.status, WNOHANG) != child.pid)
        return;
    child.dead = true;
    forget(&child.input);
    for (int i = 0; i < STREAMS; i++) {
        int left = 0;
        if (child.output[i] >= 0 && ioctl(child.output[i], FIONREAD, &left) == 0 && left > 0)
            child.left[i] = (size_t)left;
    }
}

static void read_output(int i) {
    struct writer made = out_begin();
    size_t most = child.dead && child.left[i] < PIECE ? child.left[i] : PIECE;
    ssize_t size = read(child.output[i], made.at, most);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        size = 0;
    else if (size <= 0)
        forget(&child.output[i]);
    if (child.dead)
        child.left[i] = size > 0 ? child.left[i] - (size_t)size : 0;
    if (size <= 0)
        return;
    made.at += size;
    out_end(kinds[i], made);
}

static void write_input(void) {
    ssize_t size = write(child.input, rest_at, (size_t)(rest_end - rest_at));
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size < 0) { /* it reads no more: what comes is dropped */
        forget(&child.input);
        rest_at = rest_end;
    } else {
        rest_at += size;
    }
}

static void hear(void) {
    char kind;
    struct reader payload;
    enum came came = in_read(&kind, &payload);
    if (came == END || (came == FRAME && kind != 'I' && kind != 'E'))
        _exit(FAILED); /* nobody wants it any more: the box ends with us */
    if (came == FRAME && kind == 'E')
        child.input_ends = true;
    if (came == FRAME && kind == 'I' && child.input >= 0 && !child.input_ends) {
        rest_at = payload.at;
        rest_end = payload.end;
    }
}

_Noreturn void serve_student(void) {
    sigset_t death, before;
    struct sigaction action = {.sa_handler = on_death};
    sigemptyset(&death);
    sigaddset(&death, SIGCHLD);
    sigprocmask(SIG_BLOCK, &death, &before);
    sigdelset(&before, SIGCHLD);
    sigaction(SIGCHLD, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    start(wait_for_command());
    for (;;) {
        if (!out_flush())
            _exit(FAILED);
        reap();
        for (int i = 0; i < STREAMS && child.dead; i++)
            while (!out_pending() && child.left[i]) {
                read_output(i);
                if (!out_flush())
                    _exit(FAILED);
            }
        if (child.dead && !out_pending())
            end_as_child();
        if (rest_at == rest_end && child.input_ends)
            forget(&child.input);
        bool quiet = !out_pending(), waiting = rest_at < rest_end;
        struct pollfd fds[] = {
            {line, (short)((quiet ? 0 : POLLOUT) | (waiting ? 0 : POLLIN)), 0},
            {waiting ? child.input : -1, POLLOUT, 0},
            {quiet && !child.dead ? child.output[OUTPUT] : -1, POLLIN, 0},
            {quiet && !child.dead ? child.output[ERRORS] : -1, POLLIN, 0},
        };
        if (ppoll(fds, 4, NULL, &before) < 0)
            continue;
        if (fds[1].revents && waiting)
            write_input();
        for (int i = 0; i < STREAMS; i++)
            if (fds[2 + i].revents && !out_pending())
                read_output(i);
        if (waiting && fds[0].revents & (POLLHUP | POLLERR))
            _exit(FAILED);
        if (!waiting && fds[0].revents & ~POLLOUT)
            hear();
    }
}
