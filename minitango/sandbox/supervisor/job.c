/* The child: from fork to the command. Between the two nothing but system calls happens. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervise.h"

enum { BADNESS = 500 };

static int report_fd; /* of the child; closed by exec */

static _Noreturn void fail(enum what what, int error) {
    struct failure failure = {(uint32_t)what, (uint32_t)error};
    /* Where even this cannot be said, the exit status is all there is. */
    ssize_t written = write(report_fd, &failure, sizeof failure);
    _exit(written == sizeof failure ? 127 : 126);
}

static void must(bool good) {
    if (!good)
        fail(BECOME_ERROR, errno);
}

/* Be the first that the kernel kills for memory, before pid 1. */
static void offer_for_oom(void) {
    char text[16] = "";
    /* The files in /proc/self are root's while this is no dumpable process; nothing else runs here that could look. */
    must(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    must(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    if (strtol(text, NULL, 10) < BADNESS)
        must(pwrite(fd, "500", 3, 0) == 3);
    close(fd);
    must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
}

static bool close_range_of(unsigned first, unsigned last) {
    return first > last || syscall(SYS_close_range, first, last, 0) == 0;
}

/* Close every descriptor but the first three and the report's. */
static bool close_others(void) {
    unsigned kept = (unsigned)report_fd;
    if (close_range_of(STDERR_FILENO + 1, kept - 1) && close_range_of(kept + 1, UINT_MAX))
        return true;
    /* Linux before 5.9, or a filter of system calls. */
    int directory = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return false;
    /* Closing while listing may skip some: begin anew until a pass closes nothing. */
    for (bool closed = true; closed;) {
        _Alignas(8) char entries[4096];
        closed = false;
        if (lseek(directory, 0, SEEK_SET) < 0)
            return false;
        for (long size; (size = syscall(SYS_getdents64, directory, entries, sizeof entries)) != 0;) {
            if (size < 0)
                return false;
            for (long at = 0; at < size;) {
                unsigned short length;
                memcpy(&length, entries + at + DIRENT_LENGTH, sizeof length);
                long fd = strtol(entries + at + DIRENT_NAME, NULL, 10);
                if (fd > STDERR_FILENO && fd != report_fd && fd != directory && close((int)fd) == 0)
                    closed = true;
                at += length;
            }
        }
    }
    return close(directory) == 0;
}

static bool set_limits(const struct command *command) {
    struct reader from = {command->limits, command->limits + (size_t)command->limit_count * 12, true};
    for (unsigned i = 0; i < command->limit_count; i++) {
        uint32_t resource = get_u32(&from);
        uint64_t value = get_u64(&from);
        struct rlimit limit;
        if (resource > INT_MAX) {
            errno = EINVAL;
            return false;
        }
        if (getrlimit((int)resource, &limit) < 0)
            return false;
        if (value < limit.rlim_max)
            limit.rlim_max = value;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit((int)resource, &limit) < 0)
            return false;
    }
    return true;
}

/* All of them; of a job that is root, all but what pid 1 itself has kept: no exec gives it more, without new
 * privileges. */
static bool drop_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct left[_LINUX_CAPABILITY_U32S_3] = {{0, 0, 0}};
    if (job_is_root && syscall(SYS_capget, &header, left) < 0)
        return false;
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        left[i].effective = left[i].permitted;
        left[i].inheritable = 0;
    }
    /* A kernel that has no ambient set has nothing in it. */
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
        return false;
    return syscall(SYS_capset, &header, left) == 0;
}

/* On top of whatever filter the container has. */
static bool filter_calls(const struct command *command) {
    struct sock_fprog program = {(unsigned short)command->filter_length, (struct sock_filter *)(void *)command->filter};
    return !command->filter_length || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

/* Find the command as execvp does, with the PATH of the job, and without a shell for what has no format. */
static int execute(const struct command *command) {
    static char path[PATH_MAX];
    const char *name = command->argv[0], *places = NULL;
    if (strchr(name, '/')) {
        execve(name, command->argv, command->envp);
        return errno;
    }
    for (char **variable = command->envp; *variable && !places; variable++)
        if (strncmp(*variable, "PATH=", 5) == 0)
            places = *variable + 5;
    if (!places || !*name)
        return ENOENT;
    int error = ENOENT;
    for (const char *next = places; next; places = next + 1) {
        next = strchr(places, ':');
        size_t length = next ? (size_t)(next - places) : strlen(places), rest = strlen(name);
        if (length + 1 + rest < sizeof path) {
            memcpy(path, places, length);
            path[length] = '/';
            /* An empty place is the directory that the command starts in. */
            memcpy(path + (length ? length + 1 : 0), name, rest + 1);
            execve(path, command->argv, command->envp);
        } else {
            errno = ENAMETOOLONG;
        }
        if (errno == EACCES)
            error = EACCES;
        else if (errno != ENOENT && errno != ENOTDIR && errno != ENAMETOOLONG)
            return errno;
        if (!next)
            break;
    }
    return error;
}

static _Noreturn void become_job(const struct command *command, int output, int report) {
    report_fd = report;
    must(setsid() >= 0);
    offer_for_oom();
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    must(null >= 0 && dup2(null, STDIN_FILENO) >= 0);
    must(dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0);
    if (job_uid != own_uid) {
        must(setgroups(0, NULL) == 0);
        must(setresgid(job_gid, job_gid, job_gid) == 0);
        must(setresuid(job_uid, job_uid, job_uid) == 0);
    }
    must(drop_capabilities());
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    must(fchdir(command->workdir) == 0);
    must(close_others());
    umask(022);
    for (int number = 1; number < _NSIG; number++)
        if (number != SIGKILL && number != SIGSTOP)
            signal(number, SIG_DFL); /* the two that libc keeps for itself were never touched */
    sigset_t all;
    sigfillset(&all);
    must(sigprocmask(SIG_UNBLOCK, &all, NULL) == 0);
    must(set_limits(command));
    must(filter_calls(command));
    fail(EXEC_ERROR, execute(command));
}

pid_t start_job(const struct command *command, int *output, int *report) {
    int out[2], said[2];
    if (pipe2(out, O_CLOEXEC) < 0)
        return -1;
    if (pipe2(said, O_CLOEXEC) < 0) {
        int error = errno;
        close(out[0]);
        close(out[1]);
        errno = error;
        return -1;
    }
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(said[0], F_SETFL, O_NONBLOCK);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* acting as another user may have set it anew */
    pid_t pid = fork();
    if (pid == 0)
        become_job(command, out[1], said[1]);
    int error = errno;
    close(out[1]);
    close(said[1]);
    if (pid < 0) {
        close(out[0]);
        close(said[0]);
        errno = error;
        return -1;
    }
    *output = out[0];
    *report = said[0];
    return pid;
}
