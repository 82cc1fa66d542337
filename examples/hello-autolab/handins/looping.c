/* Never ends, and ignores whoever asks it to. */
#include <signal.h>

int main(void) {
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    for (volatile int i = 0;; i++)
        ;
}
