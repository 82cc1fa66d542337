/* Right, but the compiler has something to say. */
#include <stdio.h>

int main(int argc, char **argv) {
    int unused;
    if (argc < 2)
        puts("Hello, world!");
    for (int i = 1; i < argc; i++)
        printf("Hello, %s!\n", argv[i]);
    return 0;
}
