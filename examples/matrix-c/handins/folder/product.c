#include "product.h"

long long product(const long long *row, const long long *column, int n, int stride) {
    long long sum = 0;
    for (int k = 0; k < n; k++)
        sum += row[k] * column[k * stride];
    return sum;
}
