/* What the container's own control group says (v1 or v2), and /proc where there is none. */
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervise.h"

enum { PLACE = 512, TEXT = 4096, HELD_PIDS = 1 << 20 };

#define GROUPS "/sys/fs/cgroup"

/* The directories of our own control group, by what is read there; empty where there is none that we can believe. */
static struct {
    int version;
    char memory[PLACE], cpu[PLACE], cpu_account[PLACE], pids[PLACE];
} group;

static struct {
    uint64_t cpu, oom, refused;
} before;

static uint64_t most_cpu, most_memory;

/* --- reading --- */

/* A small file as text; false where it is not there or empty. */
static bool read_text(const char *directory, const char *name, char text[TEXT]) {
    char path[2 * PLACE];
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = length < (int)sizeof path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t size = fd < 0 ? -1 : read(fd, text, TEXT - 1);
    if (fd >= 0)
        close(fd);
    text[size > 0 ? size : 0] = 0;
    return size > 0;
}

/* The number after this word at the start of a line; without a word, the first one. NONE where it is not there. */
static uint64_t read_number(const char *directory, const char *name, const char *word) {
    char text[TEXT];
    if (!*directory || !read_text(directory, name, text))
        return NONE;
    size_t length = word ? strlen(word) : 0;
    for (char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        char *number = line + length + (word != NULL), *end;
        if (word && (strncmp(line, word, length) != 0 || line[length] != ' '))
            continue;
        uint64_t value = strtoull(number, &end, 10);
        return end > number && *number != '-' ? value : NONE;
    }
    return NONE;
}

/* A limit as `h` has it. */
static uint64_t read_limit(const char *directory, const char *name) {
    char text[TEXT];
    if (!*directory || !read_text(directory, name, text))
        return 0;
    uint64_t value = strtoull(text, NULL, 10);
    return text[0] == 'm' || text[0] == '-' || value >= (uint64_t)1 << 62 ? NONE : value;
}

/* --- control groups --- */

/* Is this the group of this pid namespace, and of nobody else? Its processes are listed by their numbers here; in v2
 * one from outside has the number 0. The root of a v1 hierarchy is the whole machine's. */
static bool is_ours(const char *directory) {
    char path[2 * PLACE], text[TEXT];
    snprintf(path, sizeof path, "%s/release_agent", directory);
    if (access(path, F_OK) == 0)
        return false;
    snprintf(path, sizeof path, "%s/cgroup.procs", directory);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool found = false, foreign = false;
    uint64_t number = 0, seen = 0;
    for (ssize_t size; !foreign && seen < HELD_PIDS && (size = read(fd, text, sizeof text)) > 0;)
        for (ssize_t i = 0; i < size; i++) {
            if (text[i] != '\n') {
                number = number * 10 + (uint64_t)(text[i] - '0');
                continue;
            }
            found |= number == 1;
            foreign |= number == 0;
            number = 0;
            seen++;
        }
    close(fd);
    return found && !foreign;
}

static bool take_group(char place[PLACE], const char *directory) {
    struct stat what;
    if (!is_ours(directory))
        return false;
    /* Where the groups of v1 are joined, one is a link, in a directory that root may write to. */
    if (job_is_root && (lstat(directory, &what) < 0 || !S_ISDIR(what.st_mode)))
        return false;
    snprintf(place, PLACE, "%s", directory);
    return true;
}

/* The path of this process in the one hierarchy of v2, as it is seen below GROUPS. */
static bool find_unified(char place[PLACE]) {
    char text[TEXT], path[PLACE];
    if (read_text("/proc/self", "cgroup", text)) {
        char *line = strncmp(text, "0::/", 4) == 0 ? text : strstr(text, "\n0::/");
        if (line) {
            line += *line == '\n';
            line[strcspn(line, "\n")] = 0;
            snprintf(path, sizeof path, GROUPS "%s", line + 3);
            if (!strstr(path, "/..") && line[4] && take_group(place, path))
                return true;
        }
    }
    return take_group(place, GROUPS);
}

static void find_group(void) {
    if (find_unified(group.memory)) {
        group.version = 2;
        memcpy(group.cpu, group.memory, PLACE);
        memcpy(group.cpu_account, group.memory, PLACE);
        memcpy(group.pids, group.memory, PLACE);
        return;
    }
    bool found = take_group(group.memory, GROUPS "/memory");
    found |= take_group(group.pids, GROUPS "/pids");
    found |= take_group(group.cpu, GROUPS "/cpu") || take_group(group.cpu, GROUPS "/cpu,cpuacct");
    found |= take_group(group.cpu_account, GROUPS "/cpuacct") || take_group(group.cpu_account, GROUPS "/cpu,cpuacct");
    group.version = found;
}

static uint64_t millicores(void) {
    char text[TEXT], *end;
    if (group.version == 1) {
        uint64_t quota = read_limit(group.cpu, "cpu.cfs_quota_us");
        uint64_t period = read_number(group.cpu, "cpu.cfs_period_us", NULL);
        return quota == NONE || !period || period == NONE ? quota : quota * 1000 / period;
    }
    if (!*group.cpu || !read_text(group.cpu, "cpu.max", text))
        return 0;
    uint64_t quota = strtoull(text, &end, 10), period = strtoull(end, NULL, 10);
    return text[0] == 'm' || !period ? NONE : quota * 1000 / period;
}

/* Microseconds of CPU that the group has used; NONE where no group says. */
static uint64_t group_cpu(void) {
    if (group.version == 2)
        return read_number(group.cpu_account, "cpu.stat", "usage_usec");
    uint64_t used = read_number(group.cpu_account, "cpuacct.usage", NULL);
    return used == NONE ? NONE : used / 1000;
}

static uint64_t count(const char *place, const char *v1, const char *v2, const char *word) {
    uint64_t number = read_number(place, group.version == 2 ? v2 : v1, word);
    return number == NONE ? 0 : number;
}

static uint64_t oom_count(void) { return count(group.memory, "memory.oom_control", "memory.events", "oom_kill"); }

static uint64_t refused_count(void) { return count(group.pids, "pids.events", "pids.events", "max"); }

/* --- processes --- */

static uint64_t microseconds(struct timeval time) {
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_usec;
}

/* Clock ticks that a living process and the children that it has waited for took; 0 where it is gone. */
static uint64_t ticks(const char *pid) {
    char place[32], text[TEXT], *at;
    snprintf(place, sizeof place, "/proc/%.20s", pid);
    if (!read_text(place, "stat", text) || !(at = strrchr(text, ')')))
        return 0;
    /* After the name: state and ten numbers, then utime, stime, cutime, cstime. */
    for (int field = 0; field < 12 && at; field++)
        at = strchr(at + 1, ' ');
    uint64_t sum = 0;
    for (int field = 0; field < 4 && at; field++)
        sum += strtoull(at, &at, 10);
    return sum;
}

static uint64_t processes_cpu(void) {
    struct rusage reaped;
    getrusage(RUSAGE_CHILDREN, &reaped);
    uint64_t sum = 0;
    int fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _Alignas(8) char records[TEXT];
    for (long size; fd >= 0 && (size = syscall(SYS_getdents64, fd, records, sizeof records)) > 0;)
        for (long at = 0; at < size;) {
            unsigned short length;
            memcpy(&length, records + at + DIRENT_LENGTH, sizeof length);
            const char *name = records + at + DIRENT_NAME;
            if (*name >= '1' && *name <= '9' && strcmp(name, "1") != 0)
                sum += ticks(name);
            at += length;
        }
    if (fd >= 0)
        close(fd);
    uint64_t tick = SECOND / (uint64_t)sysconf(_SC_CLK_TCK);
    return microseconds(reaped.ru_utime) + microseconds(reaped.ru_stime) + sum * tick;
}

/* --- what the rest asks --- */

void account_start(void) {
    uint64_t cpu = group_cpu();
    before.cpu = cpu == NONE ? 0 : cpu;
    before.oom = oom_count();
    before.refused = refused_count();
}

bool cpu_is_metered(void) { return group_cpu() != NONE; }

uint64_t cpu_used(void) {
    uint64_t cpu = group_cpu();
    cpu = cpu == NONE ? processes_cpu() : cpu - before.cpu;
    /* A process that nobody waits for takes its account with it. */
    if (cpu > most_cpu)
        most_cpu = cpu;
    return most_cpu;
}

bool memory_must_be_sampled(void) {
    return group.version == 2 && read_number(group.memory, "memory.peak", NULL) == NONE &&
           read_number(group.memory, "memory.current", NULL) != NONE;
}

void sample_memory(void) {
    uint64_t now = read_number(group.memory, "memory.current", NULL);
    if (now != NONE && now > most_memory)
        most_memory = now;
}

uint64_t peak_memory(void) {
    const char *name = group.version == 2 ? "memory.peak" : "memory.max_usage_in_bytes";
    uint64_t peak = read_number(group.memory, name, NULL);
    return peak == NONE ? most_memory : peak;
}

uint64_t largest_process(void) {
    struct rusage reaped;
    getrusage(RUSAGE_CHILDREN, &reaped);
    return (uint64_t)reaped.ru_maxrss << 10;
}

uint32_t oom_kills(void) { return (uint32_t)(oom_count() - before.oom); }

bool fork_refused(void) { return refused_count() > before.refused; }

/* --- hello --- */

/* Bit 1: loopback is up; bit 2: another interface is. */
static uint32_t interfaces(void) {
    char text[TEXT];
    uint32_t facts = 0;
    int any = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (any < 0 || !read_text("/proc/net", "dev", text))
        snprintf(text, sizeof text, "lo:");
    for (char *line = text; any >= 0 && line; line = strchr(line, '\n')) {
        line += strspn(line, "\n ");
        size_t length = strcspn(line, ":\n");
        struct ifreq request;
        if (line[length] != ':' || length >= sizeof request.ifr_name)
            continue;
        memset(&request, 0, sizeof request);
        memcpy(request.ifr_name, line, length);
        if (ioctl(any, SIOCGIFFLAGS, &request) == 0 && request.ifr_flags & IFF_UP)
            facts |= request.ifr_flags & IFF_LOOPBACK ? 1 : 2;
    }
    if (any >= 0)
        close(any);
    return facts;
}

/* Keep what a supervisor needs, and what its job is to have, of what it was given. What it was given. */
static uint64_t keep_capabilities(void) {
    enum {
        NEEDED = 1 << CAP_SETUID | 1 << CAP_SETGID | 1 << CAP_KILL,
        AS_ROOT = NEEDED | 1 << CAP_CHOWN | 1 << CAP_DAC_OVERRIDE | 1 << CAP_FOWNER,
    };
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {{0, 0, 0}};
    if (syscall(SYS_capget, &header, sets) < 0)
        return 0;
    uint64_t given = (uint64_t)sets[1].permitted << 32 | sets[0].permitted;
    uint32_t kept = sets[0].permitted & (job_is_root ? AS_ROOT : NEEDED);
    sets[0] = (struct __user_cap_data_struct){kept, kept, 0};
    sets[1] = (struct __user_cap_data_struct){0, 0, 0};
    syscall(SYS_capset, &header, sets);
    return given;
}

void say_hello(void) {
    find_group();
    uint64_t memory = read_limit(group.memory, group.version == 2 ? "memory.max" : "memory.limit_in_bytes");
    uint64_t pids = read_limit(group.pids, "pids.max"), cores = millicores();
    uint32_t facts = interfaces();
    if (memory || pids || cores)
        facts |= group.version == 2 ? 8 : 4;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        facts |= 16;
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2)
        facts |= 32;
    struct writer made = out_begin();
    put_u16(&made, VERSION);
    put_u32(&made, facts);
    put_u64(&made, memory);
    put_u64(&made, pids);
    put_u64(&made, cores);
    put_u64(&made, keep_capabilities());
    out_end('h', made);
}
