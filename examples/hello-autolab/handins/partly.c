/* Knows one name at most. */
#include <stdio.h>

int main(int argc, char **argv) {
    printf("Hello, %s!\n", argc < 2 ? "world" : argv[1]);
    return 0;
}
