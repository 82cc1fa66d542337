/* Takes every matrix for a square one. */
#include <stdio.h>

static long long a[400], b[400];

static int numbers(long long *to) {
    int rows, columns;
    if (scanf("%d %d", &rows, &columns) != 2 || rows > 20 || columns > 20)
        return 0;
    for (int i = 0; i < rows * columns; i++)
        if (scanf("%lld", &to[i]) != 1)
            return 0;
    return rows;
}

int main(void) {
    int n = numbers(a);
    numbers(b);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            long long sum = 0;
            for (int k = 0; k < n; k++)
                sum += a[i * n + k] * b[k * n + j];
            printf("%lld%c", sum, j + 1 < n ? ' ' : '\n');
        }
    return 0;
}
