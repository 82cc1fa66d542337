/* Takes what there is, and uses it. */
#include <stdlib.h>
#include <string.h>

static char *volatile kept; /* for the compiler, which could else leave it all out */

int main(void) {
    for (;;) {
        kept = malloc(1 << 20);
        if (kept == NULL)
            return 1;
        memset(kept, 'x', 1 << 20);
    }
}
