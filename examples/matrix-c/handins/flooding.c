/* Prints without end. */
#include <stdio.h>

int main(void) {
    for (;;)
        puts("2 3\n4 5");
}
