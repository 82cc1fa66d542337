/* Channels: the connections that programs of the job make to us, each relayed to the engine in frames with its number.
 *
 * What the engine sends is held here, a window of it at most; what the job sends stays in its socket until the engine
 * gives the credit to send it on. Nothing here waits. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "supervise.h"

enum {
    WINDOW = 128 << 10, /* bytes on their way, of a channel, in each direction */
    REST = 256 << 10,   /* bytes beyond that, of what the dead left in a socket */
    FEW = WINDOW / 4,   /* bytes that were taken: so many are told at once */
    RUSH = 200,         /* connections that are taken in a second */
    SMALL = 4096,
    FLURRY = 40,        /* pieces smaller than that, of all channels, that are sent on in 20 ms */
    NUMBER = 4,         /* bytes of a channel's number in a frame */
    LOADED = -2,
};

#define FLURRY_TIME ((uint64_t)20000)

static struct channel {
    int fd; /* -1: this place is free */
    uint32_t number;
    uint32_t credit;      /* bytes that the engine takes */
    uint32_t first, held; /* what the job has still to take: a ring */
    uint32_t taken;       /* bytes that it took, of which the engine does not know yet */
    bool input_ends;      /* nothing comes after what is held */
    bool output_ended;    /* the job sends no more, and the engine knows */
    bool gone, told;      /* the job takes no more; the engine knows */
    bool closed;          /* by the engine: what is held still goes, then this place is free */
    bool over;            /* everything is dead */
} channels[CHANNELS];

static unsigned char rings[CHANNELS][WINDOW];
static int listener = -1;
static uint32_t last_number;
static unsigned strays; /* sockets that cannot be closed */
static struct pace {
    uint64_t began;
    unsigned count;
} rush, flurry;

bool open_socket(int directory) {
    struct sockaddr_un place = {.sun_family = AF_UNIX, .sun_path = "socket"};
    for (unsigned i = 0; i < CHANNELS; i++)
        channels[i].fd = -1;
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0111); /* any user connects */
    /* Its path may be too long for an address. */
    bool made = listener >= 0 && fchdir(directory) == 0 && bind(listener, (struct sockaddr *)&place, sizeof place) == 0;
    int error = errno;
    umask(mask);
    made = chdir("/") == 0 && made;
    errno = error;
    return made;
}

void calls_start(void) {
    if (listener >= 0)
        listen(listener, CHANNELS);
}

/* --- to the engine --- */

static struct writer begin(const struct channel *channel) {
    struct writer made = out_begin();
    put_u32(&made, channel->number);
    return made;
}

static void say(const struct channel *channel, char kind) { out_end(kind, begin(channel)); }

void calls_say(void) {
    for (struct channel *channel = channels; listener >= 0 && channel < channels + CHANNELS; channel++) {
        if (channel->fd < 0 || channel->told || channel->closed || !out_ready())
            continue;
        if (channel->gone) {
            say(channel, 'g');
            channel->told = true;
        } else if (channel->taken >= FEW) {
            struct writer made = begin(channel);
            put_u32(&made, channel->taken);
            out_end('w', made);
            channel->taken = 0;
        }
    }
}

/* Take bytes from a socket as recv does. LOADED where open files come along, which stay in the socket: to close the last
 * descriptor of a file may take as long as the job likes (a TCP socket that lingers), and whoever takes them, closes them. */
static ssize_t take(int fd, void *bytes, size_t most) {
    struct iovec place = {bytes, most};
    struct msghdr message = {.msg_iov = &place, .msg_iovlen = 1};
    ssize_t size = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
    if (size > 0 && message.msg_flags & MSG_CTRUNC)
        return LOADED;
    return size > 0 ? recv(fd, bytes, (size_t)size, MSG_DONTWAIT) : size;
}

/* Close a socket; one with open files in it only in its other side's eyes: it goes when we exit, for then nothing lingers. */
static void discard(int fd) {
    unsigned char bytes[SMALL];
    ssize_t size;
    shutdown(fd, SHUT_RDWR);
    while ((size = take(fd, bytes, sizeof bytes)) > 0)
        ; /* it is bounded: nothing comes any more */
    if (size == LOADED)
        strays++;
    else
        close(fd);
}

/* Send on what the job has sent, at most so many bytes. How many that was; 0 where there is nothing now. */
static uint32_t relay(struct channel *channel, uint32_t most) {
    struct writer made = begin(channel);
    ssize_t size = take(channel->fd, made.at, most < PIECE - NUMBER ? most : PIECE - NUMBER);
    if (size == -1 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (size <= 0) {
        channel->output_ended = true;
        if (size == LOADED)
            shutdown(channel->fd, SHUT_RD);
        out_end('f', made);
        return 0;
    }
    flurry.count += size < SMALL;
    made.at += size;
    out_end('c', made);
    return (uint32_t)size;
}

static void forget(struct channel *channel) {
    discard(channel->fd);
    *channel = (struct channel){.fd = -1};
}

/* --- from the job --- */

/* Whether there were so many already. Nobody may keep us busy, or the engine. */
static bool hurried(struct pace *pace, uint64_t time, uint64_t span, unsigned most) {
    if (time - pace->began >= span) {
        pace->began = time;
        pace->count = 0;
    }
    return pace->count >= most;
}

static void take_connection(void) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), yes = 1;
    rush.count++;
    if (fd >= 0) /* what is out of band would be skipped, and with it what comes along */
        setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &yes, sizeof yes);
    for (struct channel *channel = channels; fd >= 0 && channel < channels + CHANNELS; channel++) {
        if (channel->fd >= 0)
            continue;
        *channel = (struct channel){.fd = fd, .number = ++last_number, .credit = WINDOW};
        say(channel, 'a');
        return;
    }
    if (fd >= 0)
        discard(fd);
}

/* Give the job what it takes of what is held for it. */
static void pour(struct channel *channel) {
    unsigned char *ring = rings[channel - channels];
    while (channel->held) {
        uint32_t piece = WINDOW - channel->first < channel->held ? WINDOW - channel->first : channel->held;
        ssize_t sent = send(channel->fd, ring + channel->first, piece, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0) {
            channel->gone = true;
            channel->held = 0;
            break;
        }
        channel->first = (channel->first + (uint32_t)sent) % WINDOW;
        channel->held -= (uint32_t)sent;
        channel->taken += (uint32_t)sent;
    }
    if (channel->closed)
        forget(channel);
    else if (channel->input_ends)
        shutdown(channel->fd, SHUT_WR);
}

unsigned calls_await(struct pollfd fds[CALLS_FDS], uint64_t time, uint64_t *wake) {
    if (listener < 0)
        return 0;
    bool room = out_ready(), rushed = hurried(&rush, time, SECOND, RUSH) || strays >= CHANNELS;
    bool dense = hurried(&flurry, time, FLURRY_TIME, FLURRY);
    if (dense && flurry.began + FLURRY_TIME < *wake)
        *wake = flurry.began + FLURRY_TIME;
    fds[0] = (struct pollfd){room && !rushed ? listener : -1, POLLIN, 0};
    for (unsigned i = 0; i < CHANNELS; i++) {
        const struct channel *channel = &channels[i];
        bool hear = room && !dense && !channel->output_ended && channel->credit;
        /* One of which nothing is wanted is not looked at: its hang-up would wake us again and again. */
        fds[i + 1].fd = hear || channel->held ? channel->fd : -1;
        fds[i + 1].events = (short)((hear ? POLLIN : 0) | (channel->held ? POLLOUT : 0));
        fds[i + 1].revents = 0;
    }
    return CALLS_FDS;
}

void calls_take(const struct pollfd fds[CALLS_FDS]) {
    static unsigned turn; /* whoever comes first: the room is for all */
    turn++;
    for (unsigned n = 0; n < CHANNELS; n++) {
        unsigned i = (turn + n) % CHANNELS;
        struct channel *channel = &channels[i];
        if (!fds[i + 1].revents || channel->fd < 0)
            continue;
        if (channel->held)
            pour(channel);
        if (fds[i + 1].events & POLLIN && channel->fd >= 0 && out_ready())
            channel->credit -= relay(channel, channel->credit);
    }
    if (fds[0].revents && out_ready())
        take_connection();
}

bool calls_drain(void) {
    for (struct channel *channel = channels; listener >= 0 && channel < channels + CHANNELS; channel++) {
        if (channel->fd < 0)
            continue;
        if (!channel->over) { /* the first time that it is met here */
            channel->over = true;
            channel->credit += REST;
            channel->output_ended |= channel->closed;
        }
        while (!channel->output_ended) {
            if (!out_ready())
                return false;
            uint32_t size = channel->credit ? relay(channel, channel->credit) : 0;
            channel->credit -= size;
            if (!size && !channel->output_ended) {
                channel->output_ended = true;
                say(channel, 'f');
            }
            out_flush();
        }
        forget(channel);
    }
    return true; /* the listener stays open: somebody may wait there, and have sent open files */
}

/* --- from the engine --- */

/* False: it can never have heard of this number. NULL: it may not know yet that this one is over. */
static bool find(uint32_t number, struct channel **found) {
    *found = NULL;
    for (struct channel *channel = channels; listener >= 0 && channel < channels + CHANNELS; channel++)
        if (channel->fd >= 0 && channel->number == number && !channel->closed)
            *found = channel;
    return number > 0 && number <= last_number;
}

/* Hold this for the job. False: that is more than there is room for, or it comes after the end. */
static bool hold(struct channel *channel, const unsigned char *bytes, size_t size) {
    if (channel->gone)
        return true;
    if (channel->input_ends || size > WINDOW - channel->held - channel->taken)
        return false;
    unsigned char *ring = rings[channel - channels];
    uint32_t to = (channel->first + channel->held) % WINDOW;
    size_t piece = WINDOW - to < size ? WINDOW - to : size;
    memcpy(ring + to, bytes, piece);
    memcpy(ring, bytes + piece, size - piece);
    channel->held += (uint32_t)size;
    pour(channel);
    return true;
}

bool calls_frame(char kind, struct reader *payload, bool running) {
    struct channel *channel;
    uint32_t number = get_u32(payload), credit = kind == 'W' ? get_u32(payload) : 0;
    if (!payload->good || !find(number, &channel) || (kind != 'C' && payload->at != payload->end))
        return false;
    if (!channel || !running)
        return true;
    switch (kind) {
    case 'C':
        return hold(channel, payload->at, (size_t)(payload->end - payload->at));
    case 'F':
        if (!channel->input_ends) {
            channel->input_ends = true;
            pour(channel);
        }
        return true;
    case 'X':
        channel->closed = channel->output_ended = true;
        shutdown(channel->fd, SHUT_RD);
        pour(channel);
        return true;
    default:
        if (credit > WINDOW - channel->credit)
            return false;
        channel->credit += credit;
        return true;
    }
}
