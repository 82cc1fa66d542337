#define MOST 64

/* Of a row and a column of n numbers; those of the column are a stride apart. */
long long product(const long long *row, const long long *column, int n, int stride);
