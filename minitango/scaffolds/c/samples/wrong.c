/* Forgets that a number may be negative: it earns what it gets right. */
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    long long number, sum = 0;
    while (scanf("%lld", &number) == 1)
        sum += llabs(number);
    printf("%lld\n", sum);
    return 0;
}
