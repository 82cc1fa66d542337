/* Greets, and then dies. */
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    puts("Hello, world!");
    fflush(stdout);
    abort();
}
