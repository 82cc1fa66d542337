/* Multiplies two matrices: each comes as its rows and columns, and then its numbers. */
#include <stdio.h>
#include <stdlib.h>

struct matrix {
    int rows, columns;
    long long *at;
};

static struct matrix new_matrix(int rows, int columns) {
    struct matrix m = {rows, columns, calloc((size_t)rows * columns, sizeof(long long))};
    if (m.at == NULL)
        exit(1);
    return m;
}

static struct matrix read_matrix(void) {
    int rows, columns;
    if (scanf("%d %d", &rows, &columns) != 2 || rows < 1 || columns < 1)
        exit(1);
    struct matrix m = new_matrix(rows, columns);
    for (int i = 0; i < rows * columns; i++)
        if (scanf("%lld", &m.at[i]) != 1)
            exit(1);
    return m;
}

int main(void) {
    struct matrix a = read_matrix(), b = read_matrix();
    if (a.columns != b.rows)
        return 1;
    for (int i = 0; i < a.rows; i++)
        for (int j = 0; j < b.columns; j++) {
            long long sum = 0;
            for (int k = 0; k < a.columns; k++)
                sum += a.at[i * a.columns + k] * b.at[k * b.columns + j];
            printf("%lld%c", sum, j + 1 < b.columns ? ' ' : '\n');
        }
    return 0;
}
