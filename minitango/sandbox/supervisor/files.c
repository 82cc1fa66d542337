/* The mounts. A path is walked name by name and no link is followed. A writable mount is written and read as the
 * job's user: what that user may not reach is refused. This process is a single thread, and it acts as that user only
 * while no process of the job exists: before the run and after it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervise.h"

enum {
    DEEPEST = 64, /* directories in each other, of a tree that `B` copies */
    PLACE = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
    READ = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
    CREATE = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
};

bool job_is_root;
uid_t own_uid, job_uid;
gid_t own_gid, job_gid;

static struct mount {
    int fd;
    bool writable;
} mounts[MOUNTS];
static unsigned mount_count;

/* --- mounts --- */

bool add_mount(const char *argument) {
    static bool has_socket;
    bool writable = argument[0] == 'w', calls = argument[0] == 's';
    if ((!writable && !calls && argument[0] != 'r') || (calls && has_socket) || argument[1] != ':' || argument[2] != '/' || mount_count == MOUNTS) {
        errno = EINVAL;
        return false;
    }
    int fd = open(argument + 2, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        mounts[mount_count++] = (struct mount){fd, writable};
    has_socket |= calls;
    return fd >= 0 && (!calls || open_socket(fd));
}

int mount_fd(unsigned number) { return number < mount_count ? mounts[number].fd : -1; }

bool mounts_full(void) {
    for (unsigned i = 0; i < mount_count; i++) {
        struct statvfs use;
        if (!mounts[i].writable || fstatvfs(mounts[i].fd, &use) < 0)
            continue;
        if ((use.f_blocks && use.f_bfree <= use.f_blocks / 100) || (use.f_files && !use.f_ffree))
            return true;
    }
    return false;
}

/* Reach the file system as the user whose files the mount holds. */
static bool act_for(const struct mount *mount) {
    if (job_uid == own_uid)
        return true;
    uid_t uid = mount->writable ? job_uid : own_uid;
    gid_t gid = mount->writable ? job_gid : own_gid;
    setfsgid(gid);
    setfsuid(uid);
    if ((uid_t)setfsuid((uid_t)-1) == uid && (gid_t)setfsgid((gid_t)-1) == gid)
        return true;
    errno = EPERM;
    return false;
}

static void act_as_self(void) {
    int error = errno;
    setfsuid(own_uid);
    setfsgid(own_gid);
    errno = error;
}

static void close_keeping_errno(int fd) {
    int error = errno;
    close(fd);
    errno = error;
}

/* --- paths --- */

struct path {
    char text[LONGEST_PATH + 1];
    size_t length;
};

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

/* Take the rest of the payload as a path. */
static bool get_path(struct reader *from, struct path *path) {
    path->length = (size_t)(from->end - from->at);
    if (path->length > LONGEST_PATH || memchr(from->at, 0, path->length))
        return false;
    memcpy(path->text, from->at, path->length);
    path->text[path->length] = 0;
    return true;
}

static struct mount *get_mount(struct reader *from) {
    uint16_t number = get_u16(from);
    return from->good && number < mount_count ? &mounts[number] : NULL;
}

/* Open the directory that holds the last name of a path: `base` itself, or a new descriptor. -1 with errno. */
static int enter(int base, const char *path, bool make, const char **last) {
    int at = base;
    for (const char *slash; (slash = strchr(path, '/')); path = slash + 1) {
        char name[NAME_MAX + 1];
        size_t length = (size_t)(slash - path);
        int next = -1;
        if (length <= NAME_MAX) {
            memcpy(name, path, length);
            name[length] = 0;
            next = openat(at, name, PLACE);
            if (next < 0 && errno == ENOENT && make && mkdirat(at, name, 0755) == 0)
                next = openat(at, name, PLACE);
        } else {
            errno = ENAMETOOLONG;
        }
        if (at != base)
            close_keeping_errno(at);
        if (next < 0)
            return -1;
        at = next;
    }
    *last = path;
    return at;
}

/* --- putting --- */

static struct {
    struct mount *mount;
    struct path path;
    uint64_t left; /* bytes that are still to come */
    int fd;        /* -1: they are skipped */
} file = {.fd = -1};

static struct {
    uint32_t error; /* 0: nothing failed */
    uint16_t mount;
    struct path path;
} problem;

static void note_problem(const struct mount *mount, const struct path *path) {
    problem.error = (uint32_t)errno;
    problem.mount = (uint16_t)(mount - mounts);
    problem.path = *path;
}

void say_problem(void) {
    struct writer made = out_begin();
    put_u32(&made, problem.error);
    put_u16(&made, problem.error ? problem.mount : 0);
    if (problem.error)
        put_bytes(&made, problem.path.text, problem.path.length);
    out_end('y', made);
    problem.error = 0;
}

/* Make a file, in place of what has its name. A descriptor to write to, or -1 with errno. */
static int create(const struct mount *mount, const char *path, bool executable) {
    const char *name;
    int parent = -1, fd = -1;
    if (act_for(mount) && (parent = enter(mount->fd, path, true, &name)) >= 0) {
        if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
            fd = openat(parent, name, CREATE, executable ? 0755 : 0644);
        if (parent != mount->fd)
            close_keeping_errno(parent);
    }
    act_as_self();
    return fd;
}

static bool write_all(int fd, const unsigned char *bytes, size_t size) {
    while (size) {
        ssize_t written = write(fd, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        bytes += written;
        size -= (size_t)written;
    }
    return true;
}

bool putting(void) { return file.left > 0; }

bool put_file(struct reader *payload) {
    file.mount = get_mount(payload);
    uint8_t executable = get_u8(payload);
    uint64_t left = get_u64(payload);
    if (!file.mount || !payload->good || executable > 1 || !get_path(payload, &file.path) || !is_clean(file.path.text))
        return false;
    file.left = left;
    if (problem.error)
        return true;
    file.fd = create(file.mount, file.path.text, executable);
    if (file.fd < 0)
        note_problem(file.mount, &file.path);
    struct reader nothing = {payload->end, payload->end, true};
    return left ? true : put_data(&nothing);
}

bool put_data(struct reader *payload) {
    size_t size = (size_t)(payload->end - payload->at);
    if (size > file.left)
        return false;
    file.left -= size;
    if (file.fd < 0)
        return true;
    bool good = write_all(file.fd, payload->at, size);
    if (good && file.left)
        return true;
    if (!good)
        note_problem(file.mount, &file.path);
    if (close(file.fd) < 0 && good)
        note_problem(file.mount, &file.path);
    file.fd = -1;
    return true;
}

static bool copy_file(const struct mount *mount, int directory, const char *name, const struct path *path) {
    static unsigned char piece[PIECE];
    struct stat about;
    int from = openat(directory, name, READ), to = -1;
    bool good = from >= 0 && fstat(from, &about) == 0 &&
                (to = create(mount, path->text, about.st_mode & S_IXUSR)) >= 0;
    for (ssize_t size; good && (size = read(from, piece, sizeof piece)) != 0;)
        good = size > 0 && write_all(to, piece, (size_t)size);
    if (to >= 0 && close(to) < 0)
        good = false;
    if (from >= 0)
        close_keeping_errno(from);
    return good;
}

/* --- directories --- */

struct directory {
    int fd;
    long at, size;
    _Alignas(8) char records[4096];
};

static void directory_step(struct directory *directory) {
    unsigned short length;
    memcpy(&length, directory->records + directory->at + DIRENT_LENGTH, sizeof length);
    directory->at += length;
}

/* The next name but `.` and `..`; it stays the next one until directory_step. 1, 0 at the end, -1 with errno. */
static int directory_peek(struct directory *directory, const char **name) {
    for (;; directory_step(directory)) {
        if (directory->at == directory->size) {
            directory->at = directory->size = 0;
            long size = syscall(SYS_getdents64, directory->fd, directory->records, sizeof directory->records);
            if (size <= 0)
                return (int)size;
            directory->size = size;
        }
        *name = directory->records + directory->at + DIRENT_NAME;
        if (strcmp(*name, ".") != 0 && strcmp(*name, "..") != 0)
            return 1;
    }
}

static bool copy_entry(const struct mount *mount, int from, const char *name, struct path *path, unsigned depth);

/* Copy the regular files below the directory `from`, which it closes, to `path`, which it restores where all went
 * well and else leaves at what failed. */
static bool copy_below(const struct mount *mount, int from, struct path *path, unsigned depth) {
    struct directory directory = {.fd = from};
    size_t length = path->length;
    const char *name;
    int found = -1;
    errno = ELOOP;
    while (depth <= DEEPEST && (found = directory_peek(&directory, &name)) > 0) {
        size_t slash = length > 0, added = strlen(name);
        if (length + slash + added > LONGEST_PATH) {
            errno = ENAMETOOLONG;
            break;
        }
        path->text[length] = '/';
        memcpy(path->text + length + slash, name, added + 1);
        path->length = length + slash + added;
        if (!copy_entry(mount, from, name, path, depth))
            break;
        path->length = length;
        path->text[length] = 0;
        directory_step(&directory);
    }
    close_keeping_errno(from);
    return found == 0;
}

static bool copy_entry(const struct mount *mount, int from, const char *name, struct path *path, unsigned depth) {
    struct stat about;
    if (fstatat(from, name, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    if (S_ISREG(about.st_mode))
        return copy_file(mount, from, name, path);
    if (!S_ISDIR(about.st_mode))
        return true;
    int below = openat(from, name, READ | O_DIRECTORY);
    return below >= 0 && copy_below(mount, below, path, depth + 1);
}

bool put_tree(struct reader *payload) {
    static struct path from, path;
    struct mount *mount = get_mount(payload);
    if (!mount || !get_path(payload, &from) || from.text[0] != '/' || !is_clean(from.text + 1))
        return false;
    if (problem.error)
        return true;
    path.length = 0;
    path.text[0] = 0;
    const char *name;
    int root = open("/", PLACE), directory = -1;
    int parent = root < 0 ? -1 : enter(root, from.text + 1, false, &name);
    if (parent >= 0) {
        directory = openat(parent, name, READ | O_DIRECTORY);
        if (parent != root)
            close_keeping_errno(parent);
    }
    if (root >= 0)
        close_keeping_errno(root);
    if (directory < 0)
        note_problem(mount, &from);
    else if (!copy_below(mount, directory, &path, 0))
        note_problem(mount, &path);
    return true;
}

/* --- answers --- */

static struct {
    bool active, over;
    char kind;
    struct mount *mount;
    uint64_t left; /* entries or bytes that may still be sent */
    uint32_t error;
    bool more;
    struct directory directory; /* its descriptor is also that of a file */
} answer = {.directory.fd = -1};

bool answering(void) { return answer.active; }

static char type_of(mode_t mode) {
    switch (mode & S_IFMT) {
    case S_IFREG: return 'f';
    case S_IFDIR: return 'd';
    case S_IFLNK: return 'l';
    case S_IFIFO: return 'p';
    case S_IFSOCK: return 's';
    default: return 'c';
    }
}

enum { ENTRY = 24 }; /* bytes of an entry before its name */
enum { EXECUTABLE = 1, LATE = 2 };

/* Whether it was changed after the main process had ended. A job can set every time of a file but this one. */
static bool is_late(const struct stat *about) {
    const struct timespec *changed = &about->st_ctim;
    return main_ended.tv_sec && (changed->tv_sec > main_ended.tv_sec ||
                                 (changed->tv_sec == main_ended.tv_sec && changed->tv_nsec > main_ended.tv_nsec));
}

static bool put_entry(struct writer *to, int directory, const char *name) {
    struct stat about;
    size_t length = strlen(name);
    if (fstatat(directory, name, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    put_u8(to, (uint8_t)type_of(about.st_mode));
    put_u8(to, (uint8_t)((about.st_mode & S_IXUSR ? EXECUTABLE : 0) | (is_late(&about) ? LATE : 0)));
    put_u64(to, (uint64_t)about.st_size);
    put_u64(to, (uint64_t)about.st_blocks * 512);
    put_u32(to, (uint32_t)about.st_nlink);
    put_u16(to, (uint16_t)length);
    put_bytes(to, name, length);
    return true;
}

static int open_regular(int directory, const char *name) {
    struct stat about;
    if (fstatat(directory, name, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    errno = EINVAL;
    if (!S_ISREG(about.st_mode))
        return -1;
    return openat(directory, name, READ);
}

/* Open or look at what was asked for; false with errno. */
static bool begin_answer(const char *path) {
    const char *name = ".";
    int parent = path[0] ? enter(answer.mount->fd, path, false, &name) : answer.mount->fd;
    if (parent < 0)
        return false;
    bool good;
    if (answer.kind == 'S') {
        struct writer made = out_begin();
        if ((good = put_entry(&made, parent, name)))
            out_end('l', made);
        answer.over = true;
    } else {
        bool list = answer.kind == 'L';
        answer.directory.fd = list ? openat(parent, name, READ | O_DIRECTORY) : open_regular(parent, name);
        good = answer.directory.fd >= 0;
    }
    if (parent != answer.mount->fd)
        close_keeping_errno(parent);
    return good;
}

bool ask(char kind, struct reader *payload) {
    static struct path path;
    answer.kind = kind;
    answer.mount = get_mount(payload);
    answer.left = kind == 'L' ? get_u32(payload) : kind == 'G' ? get_u64(payload) : 0;
    if (!answer.mount || !payload->good || !get_path(payload, &path))
        return false;
    if (!is_clean(path.text) && (kind != 'L' || path.length))
        return false;
    answer.active = true;
    answer.over = answer.more = false;
    answer.error = 0;
    answer.directory.at = answer.directory.size = 0;
    if (!act_for(answer.mount) || !begin_answer(path.text)) {
        answer.error = (uint32_t)errno;
        answer.over = true;
    }
    act_as_self();
    return true;
}

/* The end of an answer: at errno, where something failed. */
static void finish(bool good) {
    answer.over = true;
    answer.error = good ? 0 : (uint32_t)errno;
}

static void list_more(void) {
    struct writer made = out_begin();
    const char *name;
    int found;
    while ((found = directory_peek(&answer.directory, &name)) > 0) {
        if (!answer.left) {
            answer.more = true;
            break;
        }
        if ((size_t)(made.at - made.start) + ENTRY + strlen(name) > PIECE)
            break; /* `found` stays 1, and this name the next one */
        if (!put_entry(&made, answer.directory.fd, name)) {
            found = -1;
            break;
        }
        answer.left--;
        directory_step(&answer.directory);
    }
    if (found <= 0 || answer.more)
        finish(found >= 0);
    if (made.at > made.start)
        out_end('l', made);
}

static void read_more(void) {
    struct writer made = out_begin();
    /* Of a file that was read as far as it may be, one byte more, which is not sent. */
    size_t most = answer.left > PIECE ? PIECE : answer.left ? (size_t)answer.left : 1;
    ssize_t size = read(answer.directory.fd, made.at, most);
    if (!answer.left) {
        answer.more = size > 0;
        finish(size >= 0);
    } else if (size <= 0) {
        finish(size == 0);
    } else {
        answer.left -= (uint64_t)size;
        made.at += size;
        out_end('d', made);
    }
}

void answer_more(void) {
    if (answer.over) {
        struct writer made = out_begin();
        put_u32(&made, answer.error);
        put_u8(&made, answer.more);
        out_end('e', made);
        if (answer.directory.fd >= 0)
            close(answer.directory.fd);
        answer.directory.fd = -1;
        answer.active = false;
        return;
    }
    if (!act_for(answer.mount))
        finish(false);
    else if (answer.kind == 'L')
        list_more();
    else
        read_more();
    act_as_self();
}
