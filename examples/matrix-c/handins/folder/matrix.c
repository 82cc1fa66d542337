/* Multiplies two matrices; the sum is in a file of its own. */
#include "product.h"
#include <stdio.h>

static long long a[MOST * MOST], b[MOST * MOST];

static int numbers(long long *to, int *rows, int *columns) {
    if (scanf("%d %d", rows, columns) != 2 || *rows > MOST || *columns > MOST)
        return 0;
    for (int i = 0; i < *rows * *columns; i++)
        if (scanf("%lld", &to[i]) != 1)
            return 0;
    return 1;
}

int main(void) {
    int n, m, m2, p;
    if (!numbers(a, &n, &m) || !numbers(b, &m2, &p) || m != m2)
        return 1;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < p; j++)
            printf("%lld ", product(a + i * m, b + j, m, p));
        puts("");
    }
    return 0;
}
