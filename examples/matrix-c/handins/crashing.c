/* Dies before it has read a number. */
#include <stdlib.h>

int main(void) {
    abort();
}
